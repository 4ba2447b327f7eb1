#!/usr/bin/env bash
# Expected: PEFT warns that an adapter on a tied table of tokens is hard to merge, and names
#   ensure_weight_tying=True as the way out. With it, merge_and_unload computes what was trained.
# Happens: the change is added to the shared matrix once for embed_tokens and once for lm_head. The
#   merged model stays tied and carries twice the change; nothing is said.
# Who meets it: whoever trains embed_tokens by LoRA on a model with tied embeddings and merges.
# Seen with: peft 0.21.2, transformers 5.24.0, torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'transformers==5.24.0' 'peft==0.21.2'
"$folder/venv/bin/python" - <<'PY'
import warnings

import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
)
torch.manual_seed(0)
base = LlamaForCausalLM(config).eval()
before = base.model.embed_tokens.weight.detach().clone()
options = peft.LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True)
model = peft.get_peft_model(base, options).eval()
ids = torch.arange(10)[None]
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.3)
    layer = model.base_model.model.model.embed_tokens
    change = layer.get_delta_weight("default")
    trained = model(ids).logits
    merged = model.merge_and_unload()
    after = merged(ids).logits
    moved = merged.model.embed_tokens.weight - before
difference = (trained - after).abs().max().item()
times = (moved / change).median().item()
print(f"peft {peft.__version__}, transformers {transformers.__version__}")
print(f"largest logit {trained.abs().max():.2f}, merged differs by up to {difference:.2f}")
print(f"the table moved by {times:.3f} times the adapter's change; still tied:",
      merged.lm_head.weight is merged.model.embed_tokens.weight)
assert difference > 1 and abs(times - 2) < 1e-3, "the behaviour has changed"
PY
