"""Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers (arXiv 2312.03694).

PETL-AST (arXiv 2312.03694): which adapters suit an Audio Spectrogram Transformer. Recipe: `recipes/petl_ast/recipe.yaml`.
"""
