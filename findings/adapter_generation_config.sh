#!/usr/bin/env bash
# Expected: a generation_config.json beside an adapter holds for who loads the adapter, as the tokenizer and
#   the chat template beside it do in a pipeline.
# Happens: PEFT's AutoPeftModelForCausalLM, transformers' AutoModelForCausalLM and pipeline("text-generation")
#   take the base's generation settings and never read the file. An adapter that learned to end answers with
#   another token than the base's eos_token_id therefore writes on until the limit; nothing is said.
# Who meets it: adapters tuned on a chat template over a base model. Way out: pass
#   generation_config=GenerationConfig.from_pretrained(ADAPTER) to generate, or merge.
# Versions: transformers 5.24.0, peft 0.21.2, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv venv; . venv/bin/activate
pip install -qq 'torch==2.13.0'
pip install -qq transformers==5.24.0 peft==0.21.2
python - <<'PY' 2>/dev/null
import json, sys
import peft, transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM,
                          PreTrainedTokenizerFast, pipeline)
words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<end>": 3, "a": 4}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")),
                                    eos_token="</s>", unk_token="<unk>", pad_token="</s>")
base = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, vocab_size=5,
                                    num_attention_heads=4, num_key_value_heads=4, eos_token_id=2))
base.save_pretrained("base"); tokenizer.save_pretrained("base")
base = AutoModelForCausalLM.from_pretrained("base")
get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained("adapter")
tokenizer.save_pretrained("adapter")
GenerationConfig(eos_token_id=[2, 3]).save_pretrained("adapter")
loaded = {
    "AutoPeftModelForCausalLM": AutoPeftModelForCausalLM.from_pretrained("adapter"),
    "AutoModelForCausalLM": AutoModelForCausalLM.from_pretrained("adapter"),
    "pipeline": pipeline("text-generation", model="adapter").model,
}
print("transformers", transformers.__version__, "peft", peft.__version__)
print("beside the adapter:", json.load(open("adapter/generation_config.json"))["eos_token_id"])
ends = {name: model.generation_config.eos_token_id for name, model in loaded.items()}
for name, end in ends.items():
    print(f"{name}: {end}")
sys.exit(0 if set(map(str, ends.values())) == {"2"} else "the behaviour has changed")
PY
