#!/usr/bin/env bash
# Expected: from_pretrained(..., local_files_only=True) of a cached model uses no network.
# Happens: with peft installed the Auto classes ask the hub for adapter_config.json, with five retries
#   (1, 2, 4, 8, 8 s), before they load. The model's own class does not wait. What helps:
#   adapter_kwargs={"local_files_only": True}.
# Who meets it: whoever loads cached models on a machine without network and has not set
#   HF_HUB_OFFLINE: half a minute a load.
# Seen with: transformers 5.24.0, peft 0.21.2, huggingface_hub 2.4.0, torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'transformers==5.24.0' 'peft==0.21.2' 'huggingface_hub==2.4.0'
unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE
"$folder/venv/bin/python" - "$folder/cache" <<'PY'
import pathlib
import socket
import sys
import time

import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

transformers.utils.logging.disable_progress_bar()
cache = pathlib.Path(sys.argv[1])
model, commit = cache / "models--owner--name", "a" * 40
LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2,
)).save_pretrained(model / "snapshots" / commit)
(model / "refs").mkdir()
(model / "refs" / "main").write_text(commit)

asked = []


def look_up(host, *_, **__):
    asked.append(host)
    raise socket.gaierror("there is no network")


socket.getaddrinfo = look_up


def load(kind, **more):
    asked.clear()
    begun = time.time()
    kind.from_pretrained("owner/name", cache_dir=str(cache), local_files_only=True, **more)
    return len(asked), time.time() - begun


own, auto = load(LlamaForCausalLM), load(AutoModelForCausalLM)
told = load(AutoModelForCausalLM, adapter_kwargs={"local_files_only": True})
print(f"transformers {transformers.__version__}: looked up a host, and seconds")
for name, (count, seconds) in {"own class": own, "Auto class": auto, "with adapter_kwargs": told}.items():
    print(f"  {name:20} {count:2} {seconds:6.1f}")
assert told[0] == 0 and own[1] < 2 and auto[0] > 3 and auto[1] > 10, "the behaviour has changed"
PY
