"""LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning (arXiv 2410.13618).

LoLDU (arXiv 2410.13618): one factorisation W = P L diag(D) U a weight, and only the diagonal learns. Recipe: `recipes/loldu/recipe.yaml`.
"""
