#!/usr/bin/env bash
# Expected: llama.cpp's convert_lora_to_gguf.py writes a scale with which the runtime applies the adapter as
#   PEFT does, or refuses what it does not know.
# Happens: it copies lora_alpha and looks at neither use_rslora nor rank_pattern nor alpha_pattern. The
#   runtime multiplies by alpha / rank (src/llama-adapter.h), so that an rsLoRA adapter of rank 16 has a
#   quarter of the effect it was trained with. No warning.
# Who meets it: whoever serves an rsLoRA adapter (PEFT's use_rslora=True) through llama.cpp or what is built on it.
# Versions: llama-cpp-python 0.3.36 (its source holds the script), gguf 0.19.0, peft 0.21.2, transformers 5.24.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq 'torch==2.13.0'
pip install -qq transformers==5.24.0 peft==0.21.2 gguf==0.19.0 sentencepiece==0.2.3
pip download -qq --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar xzf llama_cpp_python-0.3.36.tar.gz --wildcards '*/convert_lora_to_gguf.py' '*/conversion/*' '*/gguf-py/*'
python - <<'PY' 2>/dev/null
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
def model():
    return LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4, vocab_size=64))
model().save_pretrained("base")
for name, rslora in (("plain", False), ("rslora", True)):
    tuned = get_peft_model(model(), LoraConfig(r=16, lora_alpha=32, use_rslora=rslora, target_modules=["q_proj"]))
    print(f"peft    {name:7}", "scale", tuned.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"])
    tuned.save_pretrained(name)
PY
for name in plain rslora; do
  python llama_cpp_python-0.3.36/vendor/llama.cpp/convert_lora_to_gguf.py \
    --base base --outfile "$name.gguf" "$name" >/dev/null 2>&1
done
python - <<'PY'
import sys
from gguf import GGUFReader
scales = {}
for name in ("plain", "rslora"):
    reader = GGUFReader(f"{name}.gguf")
    alpha = float(reader.get_field("adapter.lora.alpha").contents())
    rank = int(next(t for t in reader.tensors if t.name.endswith("lora_b")).shape[0])
    scales[name] = alpha / rank
    print(f"gguf    {name:7} adapter.lora.alpha {alpha:g}, rank {rank}: llama.cpp's scale {scales[name]:g}")
sys.exit(0 if scales == {"plain": 2.0, "rslora": 2.0} else "the behaviour has changed")
PY
