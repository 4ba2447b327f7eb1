"""QLoRA: Efficient Finetuning of Quantized LLMs (arXiv 2305.14314).

QLoRA (arXiv 2305.14314): LoRA on every linear layer of a frozen base in NF4. Recipe: `recipes/qlora/recipe.yaml`.
"""
