"""Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit Integer Quantization (arXiv 2305.14152).

PEQA (arXiv 2305.14152): integers of 3 or 4 bits a weight, and only their scales trained. Recipe: `recipes/peqa/recipe.yaml`.
"""
