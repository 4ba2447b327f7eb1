"""L4Q: Parameter Efficient Quantization-Aware Training on Large Language Models via LoRA-wise LSQ (arXiv 2402.04902).

L4Q (arXiv 2402.04902): the LoRA product is added to the weight, the sum is rounded with trained scales and offsets. Recipe: `recipes/l4q/recipe.yaml`.
"""
