"""From PEFT to DEFT: Parameter Efficient Finetuning for Reducing Activation Density in Transformers (arXiv 2402.01911).

DEFT (arXiv 2402.01911): adapters that also learn to leave neurons of the MLPs at zero. Recipe: `recipes/deft/recipe.yaml`.
"""
