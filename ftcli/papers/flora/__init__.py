"""FLoRA: Low-Rank Core Space for N-dimension (arXiv 2405.14739).

FLoRA (arXiv 2405.14739): updates of N-dimensional weights as Tucker products of low rank. Recipe: `recipes/flora/recipe.yaml`.
"""
