"""Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit Integer Quantization (arXiv 2305.14152).

PEQA (arXiv 2305.14152): weights become frozen integers of 3 or 4 bits, and only their scales are trained. Recipe: `recipes/peqa/recipe.yaml`.
"""
