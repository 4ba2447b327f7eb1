"""Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning (arXiv 2210.08823).

SSF (arXiv 2210.08823) on a ViT: from clothes to handwritten letters. Recipe: `recipes/ssf_vit/recipe.yaml`.
"""
