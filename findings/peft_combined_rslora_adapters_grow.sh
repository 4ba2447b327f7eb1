#!/usr/bin/env bash
# Expected: add_weighted_adapter with weights 1 and 0 gives an adapter that computes what the first one computes,
#   whatever scale the adapters were trained at.
# Happens: with use_rslora=True the new adapter keeps use_rslora but gets lora_alpha = its rank, so that its scale is
#   sqrt(rank) and not 1: its change is 2 times too large at rank 4 (linear, svd) and 2.83 times at the joined rank 8 (cat).
#   Nothing is said. With use_rslora=False the three ways agree with the first adapter.
# Who meets it: whoever mixes or concatenates rank-stabilised adapters with PEFT.
# Seen with: peft 0.21.2, transformers 5.24.0, torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'transformers==5.24.0' 'peft==0.21.2'
"$folder/venv/bin/python" - <<'PY'
import math
import warnings

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")


def combine(rslora, way):
    """Norm of the combined change over that of the first adapter's, and the rank of the combined adapter."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4,
    ))
    options = [peft.LoraConfig(r=4, lora_alpha=8, use_rslora=rslora, target_modules=["q_proj"]) for _ in "ab"]
    model = peft.get_peft_model(base, options[0], "a")
    model.add_adapter("b", options[1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.add_weighted_adapter(["a", "b"], [1.0, 0.0], "c", combination_type=way)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    ratio = layer.get_delta_weight("c").norm() / layer.get_delta_weight("a").norm()
    return ratio.item(), model.peft_config["c"].r


print(f"peft {peft.__version__}")
for way in ("linear", "cat", "svd"):
    for rslora in (False, True):
        ratio, rank = combine(rslora, way)
        print(f"{way:6} use_rslora={rslora!s:5} rank {rank}: {ratio:.3f} times the first adapter's change")
        expected = math.sqrt(rank) if rslora else 1.0
        assert abs(ratio - expected) < 1e-3, "the behaviour has changed"
PY
