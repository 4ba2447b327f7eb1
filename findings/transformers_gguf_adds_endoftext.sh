#!/usr/bin/env bash
# Expected: the tokenizer of a GGUF file has the tokens that the file lists.
# Happens: AutoTokenizer.from_pretrained(gguf_file=...) builds GPT-2's tokenizer for every byte-level BPE. Where the
#   vocabulary has no `<|endoftext|>`, it is added with an id behind the last, for which the model of the same
#   file has no embedding. Text that holds `<|endoftext|>` then gives an id that the model cannot look up.
# Who meets it: whoever tokenizes text from the web with a GGUF file whose vocabulary lacks the token, or compares
#   len(tokenizer) with the size of the embeddings. Way out: load the tokenizer of the original model.
# Versions: transformers 5.24.0, gguf 0.19.0, tokenizers 0.23.3, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq 'torch==2.13.0'
pip install -qq transformers==5.24.0 gguf==0.19.0 tokenizers==0.23.3
python - <<'PY' 2>/dev/null
import sys
import gguf, transformers
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer
tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_block_count(1); writer.add_context_length(64); writer.add_embedding_length(32)
writer.add_feed_forward_length(32); writer.add_head_count(2); writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2"); writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens); writer.add_token_merges(["a b"])
writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2))
writer.add_bos_token_id(0); writer.add_eos_token_id(1)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")
size = AutoConfig.from_pretrained(".", gguf_file="model.gguf").vocab_size
ids = tokenizer("ab<|endoftext|>", add_special_tokens=False)["input_ids"]
print("transformers", transformers.__version__)
print(f"the file lists {len(tokens)} tokens, the model has {size}, the tokenizer {len(tokenizer)}")
print("ids of 'ab<|endoftext|>':", ids)
sys.exit(0 if len(tokenizer) == size + 1 and ids[-1] == size else "the behaviour has changed")
PY
