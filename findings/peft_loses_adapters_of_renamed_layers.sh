#!/usr/bin/env bash
# Expected: PeftModel.from_pretrained gives back what model.save_pretrained wrote.
# Happens: where transformers renames weights of old checkpoints (Laguna: shared_expert -> shared_experts), PEFT
#   applies the renaming to the adapter as well, though it was saved under the new names. The keys then match
#   nothing: these layers keep fresh random adapters, and only a warning names missing keys.
# Who meets it: LoRA on Laguna's shared experts, on Inkling 2's short convolutions, and on others that are renamed.
# Versions: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq 'torch==2.13.0'
pip install -qq transformers==5.24.0 peft==0.21.2
python - <<'PY' 2>/dev/null
import sys
import peft, torch, transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LagunaConfig, LagunaForCausalLM
torch.manual_seed(0)
config = LagunaConfig(hidden_size=64, intermediate_size=96, moe_intermediate_size=32, head_dim=16, vocab_size=64,
    shared_expert_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    num_attention_heads_per_layer=[4, 4], num_experts=4, num_experts_per_tok=2, sliding_window=8,
    pad_token_id=0, bos_token_id=1, eos_token_id=2)
LagunaForCausalLM(config).save_pretrained("base")
layers = ["q_proj", "shared_experts.up_proj"]
saved = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), LoraConfig(r=4, target_modules=layers))
for name, weight in saved.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(weight)
saved.save_pretrained("adapter")
loaded = dict(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "adapter").named_parameters())
equal = {n: torch.equal(w, loaded[n]) for n, w in saved.named_parameters() if "lora_" in n}
print("transformers", transformers.__version__, "peft", peft.__version__)
for kind in ("q_proj", "shared_experts"):
    print(kind, "as it was saved:", [same for name, same in equal.items() if kind in name])
lost = [same for name, same in equal.items() if "shared_experts" in name]
kept = [same for name, same in equal.items() if "q_proj" in name]
sys.exit(0 if lost and not any(lost) and all(kept) else "the behaviour has changed")
PY
