"""Signatures read from source equal those of the imported class."""

import dataclasses
import subprocess
import sys

import pytest

from ftcli.config import signature


def test_lora_keys_equal_those_of_the_imported_class():
    import peft

    live = {f.name for f in dataclasses.fields(peft.LoraConfig) if f.init}
    assert set(signature.read_signature("peft.LoraConfig").parameters) == live


def test_adamw_defaults_equal_those_of_the_imported_class():
    parameters = signature.read_signature("torch.optim.AdamW").parameters
    assert parameters["lr"].default == 1e-3
    assert parameters["weight_decay"].default == 1e-2
    assert parameters["params"].required


def test_reading_imports_nothing():
    code = (
        "import sys; from ftcli.config import signature; signature.read_signature('peft.LoraConfig'); "
        "print([m for m in ('torch', 'peft') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_class_that_does_not_exist_is_named():
    with pytest.raises(signature.NoSuchClass):
        signature.read_signature("peft.LoraConfg")
