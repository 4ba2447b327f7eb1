"""Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under 18 Kilobytes (arXiv 2312.06353).

FedKSeed (arXiv 2312.06353): four clients train all of a model together and send each other 1.2 kB a round. Recipe: `recipes/fedkseed/recipe.yaml`.
"""
