"""Towards Green AI in Fine-tuning Large Language Models via Adaptive Backpropagation (arXiv 2309.13192).

GreenTrainer (arXiv 2309.13192): the tensors that lower the loss most are trained, within a budget of FLOPs. Recipe: `recipes/greentrainer/recipe.yaml`.
"""
