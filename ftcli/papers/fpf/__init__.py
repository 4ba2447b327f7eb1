"""Does Continual Learning Equally Forget All Parameters? (arXiv 2304.04158).

FPF and k-FPF (arXiv 2304.04158): after or during training on a sequence of tasks, the few parameters that forget are finetuned on a small buffer. Recipe: `recipes/fpf/recipe.yaml`.
"""
