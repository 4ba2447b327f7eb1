#!/usr/bin/env bash
# Expected: rows laid end to end by DataCollatorWithFlattening (position_ids restart at each row, no mask) do not attend
#   to each other: transformers finds the rows by their positions for sdpa and eager attention too.
# Happens: only without a cache. A forward pass makes one by itself, since config.use_cache is true, in train() as well; the
#   mask is then causal over the whole batch, without a warning, and logits and losses of all rows but the first differ.
#   With use_cache=False (or gradient checkpointing, which turns it off) they are those of the row alone.
# Who meets it: whoever trains or scores packed rows in a loop of their own, as in peft's examples. The Trainer sets
#   use_cache=False. Way out: model.config.use_cache = False.
# Versions: transformers 5.24.0, torch 2.13.0 (masking_utils.py: `attention_mask is None and cache is None`).
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'transformers==5.24.0'
"$folder/venv/bin/python" - <<'PY'
import sys
import torch, transformers
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__)
first, second = list(range(3, 12)), list(range(40, 47))
batch = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": ids} for ids in (first, second)])
found = []
for attention in ("sdpa", "eager"):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=160, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512, attn_implementation=attention)).train()
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([second])).logits[0]
        for options in ({}, {"use_cache": False}):
            packed = model(**batch, **options).logits[0, len(first):]
            found.append((packed - alone).abs().max().item())
            print(f"{attention}, {options or 'as called by default'}: logits of the second row differ by {found[-1]:.1e}")
sys.exit(0 if min(found[0::2]) > 0.1 and max(found[1::2]) < 1e-4 else "the behaviour has changed")
PY
