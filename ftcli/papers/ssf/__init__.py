"""Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning (arXiv 2210.08823).

SSF (arXiv 2210.08823): a trained scale and shift after every operation of a frozen model. Recipe: `recipes/ssf/recipe.yaml`.
"""
