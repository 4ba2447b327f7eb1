"""Chat templates: what a tokenizer's template writes, which of it is learned, and what it leaves out."""
