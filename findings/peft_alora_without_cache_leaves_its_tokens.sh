#!/usr/bin/env bash
# Expected: greedy generation by an activated LoRA (alora_invocation_tokens) gives the same tokens with and without the
#   key-value cache, as it does for plain LoRA.
# Happens: with use_cache=False the tokens differ from the second on. The place where the adapter begins is counted from
#   the end of the prompt once, while the sequence that every step computes grows: after n new tokens the adapter
#   skips the first n tokens that it should change. Repeated forward passes over the whole sequence (which find the
#   invocation tokens anew) give what generation with the cache gives. Nothing is said; beam search is refused.
# Who meets it: whoever generates with an activated LoRA and use_cache=False, to save memory or to compare with the cache.
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
PROMPT = torch.tensor([[1, 20, 33, 7, 9, 14, 5]])
NEW = 12


def build(invocation):
    """A small Llama with random weights and a random adapter of rank 4."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    ))
    config = peft.LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM",
        alora_invocation_tokens=invocation,
    )
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model


def generate(model, use_cache):
    """New tokens of greedy generation."""
    output = model.generate(
        input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=NEW, do_sample=False,
        use_cache=use_cache,
    )
    return output[0, PROMPT.shape[1]:].tolist()


@torch.no_grad()
def repeat_forward(model):
    """New tokens by a forward pass over the whole sequence for each."""
    ids = PROMPT
    for _ in range(NEW):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, PROMPT.shape[1]:].tolist()


print(f"peft {peft.__version__}")
for name, invocation in (("plain LoRA", None), ("activated LoRA", [7, 9])):
    model = build(invocation)
    cached, uncached, forward = generate(model, True), generate(model, False), repeat_forward(model)
    print(f"{name}: with cache {cached}, without {uncached}, by forward passes {forward}")
    assert cached == forward, "the behaviour has changed"
    assert (uncached == cached) == (invocation is None), "the behaviour has changed"
PY
