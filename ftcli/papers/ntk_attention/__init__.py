"""Toward Infinite-Long Prefix in Transformer (arXiv 2406.14036).

NTK-Attention (arXiv 2406.14036): a matrix and a vector in every head stand for an infinitely long prefix. Recipe: `recipes/ntk_attention/recipe.yaml`.
"""
