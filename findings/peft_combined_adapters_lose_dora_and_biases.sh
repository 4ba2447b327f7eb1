#!/usr/bin/env bash
# Expected: add_weighted_adapter with weights 1 and 0 gives an adapter that computes what the first one computes, or
#   refuses what it cannot combine, as it does for bias and modules_to_save.
# Happens: DoRA's trained magnitudes and the biases of lora_B (lora_bias=True) are left out. The new adapter says
#   use_dora=True and lora_bias=True, has the magnitudes of the frozen weight and biases of zero, and computes something else.
# Who meets it: whoever mixes DoRA adapters, or adapters extracted with biases, with PEFT.
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
IDS = torch.arange(12)[None]


def combine(way, **options):
    """Largest difference of logits between the first adapter and its copy by weights 1 and 0, and the copy's layer."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4,
    ))
    configs = [peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **options) for _ in "ab"]
    model = peft.get_peft_model(base, configs[0], "a")
    model.add_adapter("b", configs[1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        model.eval().set_adapter("a")
        first = model(IDS).logits
        model.add_weighted_adapter(["a", "b"], [1.0, 0.0], "c", combination_type=way)
        model.set_adapter("c")
        difference = (model(IDS).logits - first).abs().max().item()
    return difference, model.base_model.model.model.layers[0].self_attn.q_proj


print(f"peft {peft.__version__}")
for way in ("linear", "cat", "svd"):
    plain, _ = combine(way)
    dora, layer = combine(way, use_dora=True)
    magnitude = layer.lora_magnitude_vector["c"].weight
    frozen = layer.base_layer.weight.norm(dim=1)
    bias, biased = combine(way, lora_bias=True)
    zero = biased.lora_B["c"].bias.abs().max().item()
    print(f"{way:6} logits differ by {plain:.1e} (LoRA), {dora:.4f} (DoRA), {bias:.4f} (lora_bias)")
    assert plain < 1e-5, "the behaviour has changed"
    assert dora > 1e-3 and torch.allclose(magnitude, frozen, atol=1e-5), "the behaviour has changed"
    assert bias > 1e-2 and zero == 0, "the behaviour has changed"
PY
