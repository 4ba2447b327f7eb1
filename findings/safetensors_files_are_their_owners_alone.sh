#!/usr/bin/env bash
# Expected: save_file makes a file with the permissions of any new file (0666 less the umask), as open() does.
# Happens: the file is readable by its owner alone (0600), whatever the umask; config.json beside it is
#   not. With it go save_pretrained of transformers, peft and diffusers.
# Who meets it: whoever trains under one account and serves under another.
# Seen with: safetensors 0.8.0 (Linux).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'safetensors==0.8.0' numpy
cd "$folder"
umask 022
"$folder/venv/bin/python" - <<'PY'
import os
import stat

import numpy
import safetensors
from safetensors.numpy import save_file

save_file({"x": numpy.zeros(4)}, "x.safetensors")
open("x.json", "w").close()
modes = {name: oct(stat.S_IMODE(os.stat(name).st_mode)) for name in ("x.safetensors", "x.json")}
print(f"safetensors {safetensors.__version__}: {modes}")
assert modes == {"x.safetensors": "0o600", "x.json": "0o644"}, "the behaviour has changed"
PY
