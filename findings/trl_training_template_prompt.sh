#!/usr/bin/env bash
# Expected: a training template that trl ships for a model gives, for a question and a plain answer, text that begins with
#   the prompt which the same template gives for the question (add_generation_prompt), so that what is learned is what
#   generation asks for.
# Happens: for DeepSeek-V3, R1 distills and Nemotron 3 it does not. The prompt opens "<think>\n"; the training text has
#   "<think></think>answer" (Nemotron 3), or the answer alone (DeepSeek). An answer without thinking is learned behind a
#   prefix that generation never gives. Qwen3.5's and 3.6's training templates are right.
# Who meets it: SFT with assistant_only_loss on answers without thinking. Nemotron's prompt fits with
#   enable_thinking=False; DeepSeek's never does.
# Versions: trl 1.16.0, transformers 5.24.0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'transformers==5.24.0' 'jinja2==3.1.6'
"$folder/venv/bin/pip" install -q --no-deps 'trl==1.16.0'
"$folder/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from transformers.utils.chat_template_utils import render_jinja_template

print("trl", version("trl"), "transformers", version("transformers"))
folder = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
question = [{"role": "user", "content": "What is 2 + 2?"}]
whole = [*question, {"role": "assistant", "content": "Four."}]


def render(name, turns, **options):
    text = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    return render_jinja_template([turns], chat_template=text, bos_token="<s>", eos_token="</s>", **options)[0][0]


found = {}
for name in ("deepseekv3", "deepseek_r1_distill", "nemotron_3_nano", "nemotron_3_super", "qwen3_5_think", "qwen3_6"):
    name += "_training"
    text, prompt = render(name, whole), render(name, question, add_generation_prompt=True)
    found[name] = text.startswith(prompt)
    print(f"{name}: begins with its prompt: {found[name]}\n  prompt ...{prompt[-40:]!r}\n  text   ...{text[-40:]!r}")
quiet = render("nemotron_3_nano_training", question, add_generation_prompt=True, enable_thinking=False)
fits = render("nemotron_3_nano_training", whole).startswith(quiet)
print("nemotron_3_nano_training with enable_thinking=False:", fits)
expected = [False, False, False, False, True, True]
sys.exit(0 if list(found.values()) == expected and fits else 1)
PY
