"""SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation (arXiv 2409.06633).

SaRA (arXiv 2409.06633): the weights of a denoiser that are next to 0 learn a new family of images. Recipe: `recipes/sara/recipe.yaml`.
"""
