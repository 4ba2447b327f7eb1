"""Natural GaLore: Accelerating GaLore for memory-efficient LLM Training and Fine-tuning (arXiv 2410.16029).

Natural GaLore (arXiv 2410.16029): projected gradients times the inverse Fisher matrix of their history. Recipe: `recipes/natural_galore/recipe.yaml`.
"""
