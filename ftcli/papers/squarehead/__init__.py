"""Sparse Fine-tuning for Inference Acceleration of Large Language Models (arXiv 2310.06927).

SquareHead (arXiv 2310.06927): a pruned model is finetuned under a fixed mask with the hidden states of the dense one as its target. Recipe: `recipes/squarehead/recipe.yaml`.
"""
