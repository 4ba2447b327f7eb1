"""Every configuration of the model, method, optimizer and scheduler groups makes a valid job."""

import pytest

from ftcli.config import compose, configs_dir, validate
from ftcli.config.option import content
from ftcli.config.requirements import allowed

TEXT = "ftcli.models.causal_lm.CausalLM"
GIVEN = {
    "trainable_tokens": ["method.token_indices=[3,4]"],
    "causal_lm": ["model.path=asset:llama_mini"],
    "classifier": ["model.path=asset:vit_mini"],
    "ldm": ["model.path=asset:ldm_emoji"],
}
CHOICES = [
    (group, file.stem)
    for group in ("model", "method", "optimizer", "scheduler")
    for file in sorted((configs_dir() / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_it_composes_and_validates(group, name):
    option = content(configs_dir() / group / f"{name}.yaml")
    plain = ["data.packing=none"]
    if group != "model" or option["_target_"] == TEXT:
        plain += ["model.quantization=none"]
    plain += [] if group == "method" else ["method=lora"]
    required = allowed(option)
    plain += [f"{key}={values[0]}" for key, values in required.items()]
    validate(compose("qlora_llama", [f"{group}={name}", *plain, *GIVEN.get(name, [])]))
    first = (configs_dir() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) < 110
