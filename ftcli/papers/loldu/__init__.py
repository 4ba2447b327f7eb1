"""LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning (arXiv 2410.13618).

LoLDU (arXiv 2410.13618): each weight is factored as W = P L diag(D) U, and only the diagonal is trained. Recipe: `recipes/loldu/recipe.yaml`.
"""
