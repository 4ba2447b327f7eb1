"""ComPEFT: Compression for Communicating Parameter Efficient Updates via Sparsification and Quantization (arXiv 2311.13171).

ComPEFT (arXiv 2311.13171): an adapter as signs of its largest entries and one scalar. Recipe: `recipes/compeft/recipe.yaml`.
"""
