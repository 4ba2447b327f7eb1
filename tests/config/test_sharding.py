"""What fsdp2 cannot train is refused before anything is loaded, each with its reason and a way out."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import Problems, UserError

SHARDED = ("trainer=fsdp2", "method=lora", "model.quantization=none")


def complaints(*overrides: str) -> list[UserError]:
    try:
        validate_and_convert(compose("qlora_mini", list(overrides)))
    except UserError as error:
        return error.problems if isinstance(error, Problems) else [error]
    return []


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method=full",),
        ("objective=dpo", "data=e2e_pairs"),
        ("optimizer=sgd",),
        ("method=dora",),
        ("callback=early_stopping", "trainer.eval_every=2"),
    ],
)
def test_what_was_compared_with_one_process_is_accepted(overrides):
    assert complaints(*SHARDED, *overrides) == []


REFUSED = {
    "4-bit base": (("model.quantization=nf4",), "a quantised weight is packed", "method=lora"),
    "soft prompts": (("method=prompt_tuning",), "method=prompt_tuning", "method=lora"),
    "8-bit optimizer": (("optimizer=adamw8bit",), "optimizer=adamw8bit", "optimizer=adamw"),
    "matrices": (("optimizer=muon",), "looks at whole weights", "optimizer=adamw"),
    "policy": (("trainable=top_layers",), "a policy of what moves", "~trainable"),
    "average": (("callback=ema",), "callback.ema", "~callback.ema"),
    "compiled": (("trainer.compile=true",), "trainer.compile=true", "trainer.compile=false"),
    "rollback": (("trainer.on_spike=rollback",), "on_spike=rollback", "trainer.on_spike=ignore"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sharded_is_refused_with_a_way_out(name):
    overrides, says, way = REFUSED[name]
    (problem,) = complaints(*SHARDED, *overrides)
    assert problem.what.startswith("trainer.strategy=fsdp2 (") and says in problem.what
    assert problem.fix is not None
    assert problem.fix.startswith("either trainer.strategy=ddp or ") and way in problem.fix
    assert complaints(*SHARDED, *overrides, "trainer.strategy=ddp") == []
