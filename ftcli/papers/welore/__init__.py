"""From GaLore to WeLore: How Low-Rank Weights Non-uniformly Emerge from Low-Rank Gradients (arXiv 2407.11239).

WeLore (arXiv 2407.11239): matrices whose singular values fall fast become two factors, which alone are trained. Recipe: `recipes/welore/recipe.yaml`.
"""
