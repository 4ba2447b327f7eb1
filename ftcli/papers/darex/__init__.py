"""DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models (arXiv 2410.09344).

DAREx (arXiv 2410.09344): 99 % of a change dropped at random, what is left divided by a chosen q. Recipe: `recipes/darex/recipe.yaml`.
"""
