"""LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning (arXiv 2403.17919).

LISA (arXiv 2403.17919): embeddings, head and two random blocks at a time are trained at full rank. Recipe: `recipes/lisa/recipe.yaml`.
"""
