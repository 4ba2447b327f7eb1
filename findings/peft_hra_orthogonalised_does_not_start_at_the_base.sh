#!/usr/bin/env bash
# Expected: a fresh HRA adapter changes nothing, with apply_GS=True as without: vectors are set up in equal pairs, whose
#   two reflections cancel, and init_weights is on.
# Happens: with apply_GS=True the fresh adapter changes the model at once, about as much as a trained one. Gram-Schmidt
#   subtracts from the second vector of a pair the first one, its equal; what is left is rounding error, and that
#   is scaled to length 1. The starting point is then another model, drawn from the last bits of the arithmetic.
# Who meets it: whoever trains HRA (arXiv 2405.17484) with orthogonalised reflections.
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


@torch.no_grad()
def compute(model):
    """Logits of the row."""
    return model(input_ids=IDS).logits


def differ(first, second):
    """Largest difference."""
    return (first - second).abs().max().item()


print(f"peft {peft.__version__}")
base = compute(build())
print(f"logits of the base: standard deviation {base.std():.3f}")
for orthogonalised in (False, True):
    for r in (2, 4, 8):
        config = peft.HRAConfig(r=r, apply_GS=orthogonalised, target_modules=TARGETS)
        change = differ(compute(peft.get_peft_model(build(), config).eval()), base)
        print(f"apply_GS={orthogonalised!s:5} r={r}: the fresh adapter changes logits by {change:.1e}")
        assert (change > 0.05) == orthogonalised, "the behaviour has changed"
        assert orthogonalised or change < 1e-5, "the behaviour has changed"
PY
