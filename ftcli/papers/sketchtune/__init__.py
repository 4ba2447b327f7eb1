"""Sketch to Adapt: Fine-Tunable Sketches for Efficient LLM Adaptation (arXiv 2410.06364).

SketchTune (arXiv 2410.06364): every row of a weight becomes codes into 2^b values of its own, and the values are trained. Recipe: `recipes/sketchtune/recipe.yaml`.
"""
