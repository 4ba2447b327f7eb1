"""Bone: Block Affine Transformation as Parameter Efficient Fine-tuning Methods for Large Language Models (arXiv 2409.15371).

Bone (arXiv 2409.15371): every block of a weight is multiplied and shifted by one small matrix a row. Recipe: `recipes/bone/recipe.yaml`.
"""
