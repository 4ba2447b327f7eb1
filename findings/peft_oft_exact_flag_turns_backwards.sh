#!/usr/bin/env bash
# Expected: use_cayley_neumann of OFTConfig chooses between a rotation and its approximation, so that an adapter trained
#   with the series (the class's default; the docstring says False) computes nearly the same with the exact solve.
# Happens: the series sums (I + Q)(I - Q)^-1 and the solve gives (I - Q)(I + Q)^-1, the inverse rotation. An adapter that
#   is saved with True and loaded with False turns every block the other way: its outputs are farther from the
#   trained ones than the base model's are. Nothing is said. The series alone is no rotation either: with entries of
#   standard deviation 0.2 in blocks of 8, R R^T is 2.4 away from I (Frobenius norm), the exact one 2e-5.
# Who meets it: whoever trains OFT at the default and asks for the exact form later, for serving or for merging.
# Seen with: peft 0.21.2, torch 2.13.0, transformers 5.24.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'torch==2.13.0'
"$folder/venv/bin/pip" install -q 'transformers==5.24.0' 'peft==0.21.2'
"$folder/venv/bin/python" - "$folder/adapter" <<'PY'
import sys
import warnings

import peft
import torch

warnings.simplefilter("ignore")
FOLDER = sys.argv[1]


class Model(torch.nn.Module):
    """One linear layer, without bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(32, 32, bias=False)

    def forward(self, x):
        return self.linear(x)


def measure(std):
    """Distances of the exact form's output and of the base's from the trained one's, and how orthogonal both forms are."""
    config = peft.OFTConfig(target_modules=["linear"], oft_block_size=8)
    assert config.use_cayley_neumann, "the default has changed"
    trained = peft.get_peft_model(Model(), config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "oft_R" in name:
                parameter.normal_(std=std)
    trained.save_pretrained(FOLDER)
    config = peft.PeftConfig.from_pretrained(FOLDER)
    config.use_cayley_neumann = False
    exact = peft.PeftModel.from_pretrained(Model(), FOLDER, config=config)
    x = torch.eye(32)
    with torch.no_grad():
        y, z, base = trained(x), exact(x), Model()(x)
    weight = Model().linear.weight
    errors = []
    for output in (y, z):  # the layer computes x R W^T, so that R = output W^-T
        rotation = output @ torch.linalg.inv(weight.t())
        errors.append((rotation @ rotation.t() - torch.eye(32)).norm().item())
    return (z - y).norm().item(), (base - y).norm().item(), *errors


torch.manual_seed(1)
print(f"peft {peft.__version__}")
for std in (0.01, 0.05, 0.2):
    exact, base, series_error, exact_error = measure(std)
    print(
        f"entries of std {std}: exact form {exact:.3f} from the trained output, base model {base:.3f}; "
        f"|R R^T - I| series {series_error:.1e}, exact {exact_error:.1e}"
    )
    assert exact > 1.2 * base and exact_error < 1e-3, "the behaviour has changed"
assert series_error > 1, "the behaviour has changed"
PY
