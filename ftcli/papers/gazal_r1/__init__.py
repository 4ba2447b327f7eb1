"""Gazal-R1: Achieving State-of-the-Art Medical Reasoning with Parameter-Efficient Two-Stage Training (arXiv 2506.21594).

Gazal-R1 (arXiv 2506.21594): DoRA with rsLoRA learns how to answer, then GRPO with a sum of rewards. Recipe: `recipes/gazal_r1/recipe.yaml`.
"""
