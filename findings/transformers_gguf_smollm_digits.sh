#!/usr/bin/env bash
# Expected: a tokenizer read from a GGUF file gives the ids of the tokenizer that the file was made from.
# Happens: `tokenizer.ggml.pre = smollm` stands for single digits, cut before GPT-2's words (`Digits` in the original
#   tokenizer.json; llama.cpp does the same). from_pretrained(gguf_file=...) does not know the value and splits as
#   GPT-2 alone, without a word. Blanks and line breaks before a digit become other tokens.
# Who meets it: whoever runs or finetunes SmolLM or SmolLM2 from GGUF in transformers, mostly on code, tables and
#   indented numbers. Way out: load the tokenizer of the original model.
# Versions: transformers 5.24.0, gguf 0.19.0, tokenizers 0.23.3, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq 'torch==2.13.0'
pip install -qq transformers==5.24.0 gguf==0.19.0 tokenizers==0.23.3
python - <<'PY' 2>/dev/null
import sys
import gguf, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer
merges = [("Ġ", "Ġ"), ("Ċ", "Ċ"), ("Ġ", "1")]
tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
original = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
original.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_block_count(1); writer.add_context_length(64); writer.add_embedding_length(32)
writer.add_feed_forward_length(32); writer.add_head_count(2); writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2"); writer.add_tokenizer_pre("smollm")
writer.add_token_list(tokens); writer.add_token_merges(list(map(" ".join, merges)))
writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
writer.add_eos_token_id(0)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
read = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")
print("transformers", transformers.__version__)
different = 0
for text in ("a 1", "a  5", "a\n\n7", "a  b"):
    theirs, ours = original.encode(text).tokens, read.tokenize(text)
    different += theirs != ours
    print(f"{text!r}: original {theirs}, from GGUF {ours}")
sys.exit(0 if different == 3 else "the behaviour has changed")
PY
