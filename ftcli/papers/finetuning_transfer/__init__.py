"""Efficient Model Development through Fine-tuning Transfer (arXiv 2503.20110).

Finetuning transfer (arXiv 2503.20110): the change of an old base model added to its new version. Recipe: `recipes/finetuning_transfer/recipe.yaml`.
"""
