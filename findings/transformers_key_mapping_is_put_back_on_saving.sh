#!/usr/bin/env bash
# Expected: from_pretrained(key_mapping={"^_orig_mod\\.": ""}) reads a checkpoint of a compiled model,
#   and save_pretrained writes the model's own names.
# Happens: save_pretrained turns the mapping round and writes `_orig_mod.` again. Loaded without the
#   mapping, every weight of the new folder is random, with a report on stderr.
# Who meets it: whoever mends a checkpoint of torch.compile or DDP by loading it and saving it again.
# Seen with: transformers 5.24.0, torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'transformers==5.24.0'
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
wrapped, mended = f"{sys.argv[1]}/wrapped", f"{sys.argv[1]}/mended"
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2,
))
model.save_pretrained(wrapped)
file = f"{wrapped}/model.safetensors"
tensors = {f"_orig_mod.{name}": tensor for name, tensor in load_file(file).items()}
save_file(tensors, file, metadata={"format": "pt"})
loaded = LlamaForCausalLM.from_pretrained(wrapped, key_mapping={r"^_orig_mod\.": ""})
assert torch.equal(loaded.lm_head.weight, model.lm_head.weight), "the mapping is not applied"
loaded.save_pretrained(mended)
names = sorted(load_file(f"{mended}/model.safetensors"))
again, info = LlamaForCausalLM.from_pretrained(mended, output_loading_info=True)
print(f"transformers {transformers.__version__}: saved under {names[0]}")
print(f"loaded again: {len(info['missing_keys'])} of {len(names)} tensors missing, head the same:",
      torch.equal(again.lm_head.weight, model.lm_head.weight))
assert all(name.startswith("_orig_mod.") for name in names), "the behaviour has changed"
PY
