"""NOTE: Notable generation Of patient Text summaries through Efficient approach based on direct preference optimization (arXiv 2402.11882).

NOTE (arXiv 2402.11882): summaries of hospital stays, finetuned with PEFT and then aligned by DPO. Recipe: `recipes/note_dpo/recipe.yaml`.
"""
