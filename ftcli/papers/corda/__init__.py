"""CorDA: Context-Oriented Decomposition Adaptation of Large Language Models for Task-Aware Parameter-Efficient Fine-tuning (arXiv 2406.05223).

CorDA (arXiv 2406.05223): trains the components of each weight that a context uses most, or least. Recipe: `recipes/corda/recipe.yaml`.
"""
