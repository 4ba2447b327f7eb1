"""LIFT the Veil for the Truth: Principal Weights Emerge after Rank Reduction for Reasoning-Focused Supervised Fine-Tuning (arXiv 2506.00772).

LIFT (arXiv 2506.00772): the entries that are largest after rank reduction are trained, 5 % of the weights. Recipe: `recipes/lift/recipe.yaml`.
"""
