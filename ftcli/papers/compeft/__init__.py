"""ComPEFT: Compression for Communicating Parameter Efficient Updates via Sparsification and Quantization (arXiv 2311.13171).

ComPEFT (arXiv 2311.13171): an adapter is stored as the signs of its largest entries and one scale. Recipe: `recipes/compeft/recipe.yaml`.
"""
