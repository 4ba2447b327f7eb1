"""Scaling Sparse Fine-Tuning to Large Language Models (arXiv 2401.16405).

SpIEL (arXiv 2401.16405): sparse deltas whose entries are dropped and grown while training. Recipe: `recipes/spiel/recipe.yaml`.
"""
