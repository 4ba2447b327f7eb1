#!/usr/bin/env bash
# Expected: under torch.autocast("cpu", dtype=torch.bfloat16), LoRA adapters beside 4-bit weights that read one bfloat16 input
#   (q, k and v of a layer) use it as it is, and autograd keeps it once, as under autocast on a GPU.
# Happens: PEFT's layers of bitsandbytes ask torch.is_autocast_enabled() without a device, which speaks of CUDA. On a CPU each
#   layer casts the input to float32, autocast casts it back, and autograd keeps this copy: one a layer.
# Who meets it: whoever trains QLoRA on a CPU in bfloat16: two more passes over the input of every layer, and its memory three
#   times for q, k, v and twice for gate and up. What helps: peft.helpers.disable_input_dtype_casting.
# Seen with: peft 0.21.2, bitsandbytes 0.50.2, torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'peft==0.21.2' 'transformers==5.24.0' 'accelerate>=1.12' 'bitsandbytes==0.50.2'
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" - <<'PY'
import bitsandbytes
import peft
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn

torch.manual_seed(0)
ROWS, WIDTH, NAMES = 64, 128, ["q", "k", "v"]
layers = {n: bitsandbytes.nn.Linear4bit(WIDTH, WIDTH, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4") for n in NAMES}
model = get_peft_model(nn.ModuleDict(layers).to("cpu"), LoraConfig(r=4, target_modules=NAMES))
adapted = [model.base_model.model[name] for name in NAMES]


def measure():
    """Return the types of A's inputs, whether the input is kept for backward, and how many copies of it are."""
    x = torch.randn(ROWS, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    types, kept = [], {}
    hooks = [m.lora_A["default"].register_forward_hook(lambda m, args, out: types.append(args[0].dtype)) for m in adapted]

    def pack(tensor):
        if tensor.shape == (ROWS, WIDTH):
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        sum(layer(x) for layer in adapted)
    for hook in hooks:
        hook.remove()
    return set(types), x.data_ptr() in kept, len(kept) - (x.data_ptr() in kept)


print(f"peft {peft.__version__}, bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}")
with torch.autocast("cpu", dtype=torch.bfloat16):
    asked = torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu")
print(f"inside autocast of the CPU: asked without a device {asked[0]}, for the CPU {asked[1]}")
cast = measure()
with disable_input_dtype_casting(model):
    plain = measure()
for title, (types, itself, copies) in {"as it is": cast, "without PEFT's cast": plain}.items():
    print(f"{title}: input of A {types}; kept for backward: the input itself {itself}, copies {copies}")
assert asked == (False, True) and cast == ({torch.float32}, False, 3) and plain == ({torch.bfloat16}, True, 0), (
    "the behaviour has changed"
)
PY
