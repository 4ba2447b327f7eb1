#!/usr/bin/env bash
# Expected: apply_chat_template hands its keyword arguments to the template, and strftime_now is the documented
#   function by which templates print today's date; so strftime_now=lambda f: ... fixes the date, for tests, caches and
#   training that must give the same text tomorrow.
# Happens: every keyword argument is rebuilt from plain JSON types first. A function becomes the text "<function>",
#   which shadows the real strftime_now, and the template ends in "'str' object is not callable".
# Who meets it: whoever fixes the date of gpt-oss, Llama 3.2 and other templates that print it. Setting date_string
#   helps only where a template reads that.
# Versions: transformers 5.24.0, jinja2 3.1.6, Python 3.11
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'transformers==5.24.0' 'jinja2==3.1.6'
"$folder/venv/bin/python" - <<'PY'
import sys
import jinja2, transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
tokenizer.chat_template = "Today: {{ strftime_now('%d %B %Y') }}. {{ messages[0]['content'] }}"
talk = [{"role": "user", "content": "hello"}]
print("transformers", transformers.__version__, "jinja2", jinja2.__version__)
print("without it:", tokenizer.apply_chat_template(talk, tokenize=False))
fixed = lambda form: "09 March 2025"
try:
    text = tokenizer.apply_chat_template(talk, tokenize=False, strftime_now=fixed)
except Exception as error:
    print("strftime_now=function:", type(error).__name__, error)
    sys.exit(0 if "not callable" in str(error) else 1)
print("strftime_now=function:", text)
sys.exit(1)  # the behaviour has changed
PY
