#!/usr/bin/env bash
# Expected: convert_to_lora of an adapter, at a rank as large as the weight, gives a LoRA adapter that computes what the
#   adapter computes; what it cannot convert it refuses, as it refuses OFT, HRA and IA3.
# Happens: of a DoRA adapter only the product of its two matrices is converted. The trained magnitudes are dropped, the
#   result is far from the trained model at every rank, and nothing is said. VeRA, LoHa and LoKr come out right.
# Who meets it: whoever converts DoRA for a server or a tool that loads plain LoRA only.
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
TARGETS = ["q_proj", "v_proj"]
ADAPTERS = {
    "VeRA": peft.VeraConfig(r=8, target_modules=TARGETS),
    "LoHa": peft.LoHaConfig(r=4, alpha=8, target_modules=TARGETS),
    "LoKr": peft.LoKrConfig(r=4, alpha=8, target_modules=TARGETS),
    "DoRA": peft.LoraConfig(r=4, use_dora=True, target_modules=TARGETS),
}


def load_base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4,
    )).eval()


print(f"peft {peft.__version__}")
before = load_base()(IDS).logits
for name, config in ADAPTERS.items():
    model = peft.get_peft_model(load_base(), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        trained = model(IDS).logits
        options, weights = peft.convert_to_lora(model, rank=32)  # the weights are 32 x 32
        lora = peft.get_peft_model(load_base(), options)
        peft.set_peft_model_state_dict(lora, weights)
        difference = (lora.eval()(IDS).logits - trained).abs().max().item()
    learned = (trained - before).abs().max().item()
    print(f"{name}: training moved logits by {learned:.3f}; converted at full rank they differ by {difference:.1e}")
    assert (difference > 0.3 * learned) == (name == "DoRA"), "the behaviour has changed"
    assert name == "DoRA" or difference < 1e-4, "the behaviour has changed"
PY
