"""S2FT: Efficient, Scalable and Generalizable LLM Fine-tuning by Structured Sparsity (arXiv 2412.06289).

S2FT (arXiv 2412.06289): a few channels of the MLPs are trained as dense slices of the down projections. Recipe: `recipes/s2ft/recipe.yaml`.
"""
