"""Composable Sparse Fine-Tuning for Cross-Lingual Transfer (arXiv 2110.07560).

LT-SFT (arXiv 2110.07560): the entries that full finetuning moves most are trained alone, and vectors of language and task are added. Recipe: `recipes/lt_sft/recipe.yaml`.
"""
