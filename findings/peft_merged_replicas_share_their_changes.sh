#!/usr/bin/env bash
# Expected: merge_and_unload of LoRA with layer_replication gives a model that computes what the adapted one does: the
#   layers of the new stack "will all have separate LoRA adapters", as LoraConfig documents.
# Happens: a layer and its replica are one weight, and both adapters are added to it. The merged model is wrong in both
#   layers, by more than half of what the adapters change, though safe_merge=True passes; save_pretrained of it then raises,
#   as it finds shared tensors. Unmerged, and with the same layers not replicated, all agrees to 1e-6.
# Who meets it: whoever trains a depth-upscaled model by PEFT's layer_replication and merges it for serving.
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
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
IDS = torch.tensor([[1, 20, 33, 7, 9, 14, 5, 41]])
TARGETS = ["q_proj", "v_proj", "down_proj"]


def build():
    """A small Llama with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )).eval()


def adapt(config):
    """The model with an adapter whose trained entries were moved at random."""
    model = peft.get_peft_model(build(), config).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@torch.no_grad()
def compute(model):
    """Logits of the row."""
    return model(input_ids=IDS).logits


def differ(first, second):
    """Largest difference."""
    return (first - second).abs().max().item()


print(f"peft {peft.__version__}")
for stack, replicated in ((None, False), ([[0, 2], [1, 2]], True)):
    model = adapt(peft.LoraConfig(r=4, target_modules=TARGETS, layer_replication=stack))
    adapted = compute(model)
    with model.disable_adapter():
        change = differ(compute(model), adapted)
    merged = model.merge_and_unload(safe_merge=True)
    error = differ(compute(merged), adapted)
    print(f"layer_replication={stack}: adapters change logits by {change:.3f}; merged they differ by {error:.1e}")
    assert (error > 0.3 * change) if replicated else (error < 1e-5), "the behaviour has changed"
PY
