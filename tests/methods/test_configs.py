"""Every configuration of the model, method, optimizer and scheduler groups makes a valid job."""

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.config.checks import read_allowed_values
from ftcli.config.yaml_locations import read_option

from .options import file_of, options

TEXT = "ftcli.models.causal_lm.CausalLMSource"
GIVEN = {
    "trainable_tokens": ["method.token_indices=[3,4]"],
    "classifier": ["model.path=asset:vit_mini"],
    "ldm": ["model.path=asset:ldm_emoji"],
}
CHOICES = [
    (group, name)
    for group in ("model", "method", "optimizer", "scheduler")
    for name in options(group)
]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_it_composes_and_validates(group, name):
    option = read_option(file_of(group, name))
    plain = ["data.packing=none"]
    if group != "model" or option["_target_"] == TEXT:
        plain += ["model.quantization=none"]
    plain += [] if group == "method" else ["method=lora"]
    required = read_allowed_values(option)
    plain += [f"{key}={values[0]}" for key, values in required.items()]
    plain += ["model.path=asset:llama_mini"] if option.get("path") == "???" else []
    validate_and_convert(compose("qlora_mini", [f"{group}={name}", *plain, *GIVEN.get(name, [])]))
    first = file_of(group, name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) < 110
