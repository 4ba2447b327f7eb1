"""Bone: Block Affine Transformation as Parameter Efficient Fine-tuning Methods for Large Language Models (arXiv 2409.15371).

Bone (arXiv 2409.15371): each block W of a weight becomes W + W B + B, with one small matrix B for each row of blocks. Recipe: `recipes/bone/recipe.yaml`.
"""
