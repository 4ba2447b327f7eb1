"""A continual run of seconds: three tasks of two kinds of clothes, a ResNet of two small stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TINY = (
    "seed=3", "logger={}", "model.labels=6", "model.widths=[8,16]", "model.depths=[1,1]",
    "data.classes=[Bag,Coat,Dress,Pullover,Sandal,Sneaker]", "data.shots=12", "data.crop=0",
    "data.flip=false", "pipeline.tasks=3", "pipeline.buffer=12", "pipeline.epochs=2",
    "pipeline.batch_size=6", "trainer.max_steps=18", "trainer.batch_size=8", "trainer.eval_first=false",
)  # fmt: skip


@pytest.fixture
def build() -> Callable[..., Any]:
    """Return a run that writes nothing, with further overrides."""
    from ftcli.config import compose, validate_and_convert
    from ftcli.run.build import build_run

    def make(*overrides: str) -> Any:
        composed = compose("fpf", [*TINY, *overrides])
        validate_and_convert(composed)
        run = build_run(dict(composed.config))
        run.load_model()
        return run

    return make
