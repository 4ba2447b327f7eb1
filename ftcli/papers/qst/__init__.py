"""Quantized Side Tuning: Fast and Memory-Efficient Tuning of Quantized Large Language Models (arXiv 2401.07159).

QST (arXiv 2401.07159): a narrow side network beside a frozen base in NF4. Recipe: `recipes/qst/recipe.yaml`.
"""
