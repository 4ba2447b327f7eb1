"""BA-LoRA: Bias-Alleviating Low-Rank Adaptation to Mitigate Catastrophic Inheritance in Large Language Models (arXiv 2408.04556).

BA-LoRA (arXiv 2408.04556): PiSSA with penalties on the outputs, for consistency, diversity and spectrum. Recipe: `recipes/ba_lora/recipe.yaml`.
"""
