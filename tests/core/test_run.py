"""The model of a run is loaded by `load_model` alone, once, with the same random draws each time."""

from __future__ import annotations

import pytest
import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.run import Run
from ftcli.run.build import build_run

JOB = (
    "method=lora", "method.r=2", "model.quantization=none", "model.dtype=float32", "data.limit=8",
    "data.validation=null", "eval=none", "trainer.precision=fp32", "trainer.max_steps=1",
)  # fmt: skip


@pytest.fixture
def run() -> Run:
    composed = compose("qlora_mini", list(JOB))
    validate_and_convert(composed)
    return build_run(composed.config)


def test_neither_the_model_nor_the_loader_loads_by_being_looked_at(run):
    for look in (lambda: run.model, run.build_loader, run.get_trained_tensors):
        with pytest.raises(RuntimeError, match=r"call run\.load_model\(\) first"):
            look()


def test_a_second_call_returns_the_model_without_seeding(run):
    model = run.load_model()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert run.load_model() is model is run.model
    assert torch.equal(torch.get_rng_state(), state)
    assert run.data.packing != "auto" and len(run.build_loader()) > 0


def test_the_weights_and_the_state_after_loading_follow_the_seed_alone(run):
    torch.manual_seed(1)
    run.load_model()
    state = torch.get_rng_state()
    other = build_run(run.config)
    torch.manual_seed(2)
    other.load_model()
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(
        run.get_trained_tensors().values(), other.get_trained_tensors().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_step_loads_the_model(run):
    run.trainer.fit(run)
    assert run.model.training
