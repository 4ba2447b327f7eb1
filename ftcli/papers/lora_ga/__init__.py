"""LoRA-GA: Low-Rank Adaptation with Gradient Approximation (arXiv 2407.05000).

LoRA-GA (arXiv 2407.05000): LoRA initialised so that its first step approximates that of full finetuning. Recipe: `recipes/lora_ga/recipe.yaml`.
"""
