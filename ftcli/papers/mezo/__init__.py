"""Fine-Tuning Language Models with Just Forward Passes (arXiv 2305.17333).

MeZO (arXiv 2305.17333): all of a small Llama finetuned by forward passes alone. Recipe: `recipes/mezo/recipe.yaml`.
"""
