"""Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time (arXiv 2203.05482).

Model soups (arXiv 2203.05482): the weights of models finetuned from one base are averaged. Recipe: `recipes/model_soups/recipe.yaml`.
"""
