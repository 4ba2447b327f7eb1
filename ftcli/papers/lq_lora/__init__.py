"""LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model Finetuning (arXiv 2311.12023).

LQ-LoRA (arXiv 2311.12023): each weight becomes a quantised matrix plus a low-rank one, which is trained. Recipe: `recipes/lq_lora/recipe.yaml`.
"""
