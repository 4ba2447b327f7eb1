"""Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time (arXiv 2203.05482).

Model soups (arXiv 2203.05482): finetuned models of one start averaged. Recipe: `recipes/model_soups/recipe.yaml`.
"""
