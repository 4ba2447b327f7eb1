"""Layer-wise Importance Matters: Less Memory for Better Performance in Parameter-efficient Fine-tuning of Large Language Models (arXiv 2410.11772).

IST (arXiv 2410.11772): a quarter of the layers' adapters is trained at a step, drawn by an importance learned during training. Recipe: `recipes/ist/recipe.yaml`.
"""
