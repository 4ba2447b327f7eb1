"""LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging (arXiv 2410.17146).

LiNeS (arXiv 2410.17146): the change of a finetuned model is scaled down in shallow blocks after training. Recipe: `recipes/lines/recipe.yaml`.
"""
