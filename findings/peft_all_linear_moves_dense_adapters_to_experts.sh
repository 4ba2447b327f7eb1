#!/usr/bin/env bash
# Expected: LoraConfig(target_modules="all-linear") adapts every linear layer except the head.
# Happens: on DeepSeek-V3 (and other types whose experts PEFT converts from their old names: Qwen2/3-MoE, GLM-4-MoE,
#   Qwen3-Next ...) the names gate_proj, up_proj and down_proj are taken for the experts'. The dense MLP and the
#   shared experts, which are nn.Linear with these names, get no adapter; the router, which is none, gets one; the
#   rank of the fused experts is twice the configured one. Nothing is said.
# Who meets it: LoRA on mixtures of experts with shared experts or dense first layers. Way out: list the attention
#   layers in target_modules and the others as NAME.weight in target_parameters.
# Versions: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq 'torch==2.13.0'
pip install -qq transformers==5.24.0 peft==0.21.2
python - <<'PY' 2>/dev/null
import sys
import peft, transformers
from peft import LoraConfig, get_peft_model
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
config = DeepseekV3Config(hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, n_group=2, topk_group=1,
    num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8,
    qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16, vocab_size=64)
model = get_peft_model(DeepseekV3ForCausalLM(config), LoraConfig(r=4, target_modules="all-linear"))
layers = {n.split("layers.")[1]: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
names = {n.replace(".base_layer", "") for n in layers}
dense = {f"0.mlp.{p}_proj" for p in ("gate", "up", "down")}
shared = {f"1.mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")}
ranks = sorted({m.r["default"] for n, m in layers.items() if "mlp.experts" in n})
print("transformers", transformers.__version__, "peft", peft.__version__)
print("dense layers with an adapter:", sorted(names & dense), "of", len(dense))
print("shared experts with an adapter:", sorted(names & shared), "of", len(shared))
print("router with an adapter:", "1.mlp.gate" in names, "; ranks of the experts for r=4:", ranks)
as_seen = not names & (dense | shared) and "1.mlp.gate" in names and 8 in ranks
sys.exit(0 if as_seen else "the behaviour has changed")
PY
