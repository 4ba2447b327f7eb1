"""Every configuration of the model, method, optimizer and scheduler groups makes a valid job."""

import pytest

from ftcli.config import compose, configs_dir, validate
from ftcli.config.option import content
from ftcli.config.requirements import allowed

GIVEN = {
    "trainable_tokens": ["method.token_indices=[3,4]"],
    "causal_lm": ["model.path=asset:llama_mini"],
}
CHOICES = [
    (group, file.stem)
    for group in ("model", "method", "optimizer", "scheduler")
    for file in sorted((configs_dir() / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_it_composes_and_validates(group, name):
    plain = ["data.packing=none", "model.quantization=none"]
    plain += [] if group == "method" else ["method=lora"]
    required = allowed(content(configs_dir() / group / f"{name}.yaml"))
    plain += [f"{key}={values[0]}" for key, values in required.items()]
    validate(compose("qlora_llama", [f"{group}={name}", *plain, *GIVEN.get(name, [])]))
    first = (configs_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) < 110
