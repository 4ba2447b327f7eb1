"""LongLoRA: Efficient Fine-tuning of Long-Context Large Language Models (arXiv 2309.12307).

LongLoRA (arXiv 2309.12307): a model learns rows longer than it was pretrained on, with attention in short groups that half of the heads shift, and LoRA beside whole embeddings and norms. Recipe: `recipes/longlora/recipe.yaml`.
"""
