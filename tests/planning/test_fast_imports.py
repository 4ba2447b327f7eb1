"""Quick imports leave the process as it was."""

import gc
import subprocess
import sys

from ftcli.planning.fast_imports import fast_imports

CODE = """
import sys
from tests.planning.jobs import build_job
job = build_job()
job.model
assert "bitsandbytes" not in sys.modules, "loaded although nothing is quantised"
model = job.method.prepare(job.source.load("cpu"))
layer = model.base_model.model.model.layers[0].self_attn.q_proj
print(type(layer).__mro__[2].__module__, type(layer.base_layer).__name__)  # below the fused class
"""


def test_garbage_is_collected_again_afterwards():
    with fast_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_planning_does_without_bitsandbytes_and_training_has_it():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["peft.tuners.lora.bnb", "Linear4bit"]


def test_the_modules_that_verbs_import_load_nothing_heavy():
    code = (
        "import sys, ftcli.planning.check, ftcli.planning.display, ftcli.planning.doctor; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
