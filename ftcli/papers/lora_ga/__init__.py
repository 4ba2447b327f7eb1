"""LoRA-GA: Low-Rank Adaptation with Gradient Approximation (arXiv 2407.05000).

LoRA-GA (arXiv 2407.05000): LoRA that starts where full finetuning's first step would go. Recipe: `recipes/lora_ga/recipe.yaml`.
"""
