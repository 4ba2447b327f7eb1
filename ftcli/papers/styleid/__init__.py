"""Style Injection in Diffusion: A Training-free Approach for Adapting Large-scale Diffusion Models for Style Transfer (arXiv 2312.09008).

StyleID (arXiv 2312.09008): contents in the style of other images by attention alone, zero training steps. Recipe: `recipes/styleid/recipe.yaml`.
"""
