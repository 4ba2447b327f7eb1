#!/usr/bin/env bash
# Expected: merge_and_unload after merge_adapter gives the merged model; for LoRA the second merge finds the adapter merged
#   and adds nothing.
# Happens: with OSF (orthogonal subspace finetuning) it gives another model. The layer does not look whether it is merged and
#   adds a difference a second time; logits move by half of what training changed. merge_and_unload alone is
#   right. unmerge_adapter raises, so that there is no way back. Nothing is said.
# Who meets it: whoever merges OSF once to evaluate and again to save.
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
for name, config in (
    ("LoRA", peft.LoraConfig(r=4, target_modules=TARGETS)), ("OSF", peft.OSFConfig(target_modules=TARGETS)),
):
    model = adapt(config)
    trained = compute(model)
    change = differ(trained, compute(build()))
    once = differ(compute(adapt(config).merge_and_unload()), trained)
    model.merge_adapter()
    merged = differ(compute(model), trained)
    twice = differ(compute(model.merge_and_unload()), trained)
    print(
        f"{name}: trained to differ by {change:.3f}; merge_and_unload {once:.1e} away, merge_adapter {merged:.1e}, "
        f"merge_and_unload after it {twice:.1e}"
    )
    assert once < 1e-5 and merged < 1e-5, "the behaviour has changed"
    assert (twice > 0.1 * change) == (name == "OSF"), "the behaviour has changed"
PY
