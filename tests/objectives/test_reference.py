"""The reference is the pretrained function, whatever the method did to the model meanwhile."""

from __future__ import annotations

import pytest
import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.core.hooks import Probes
from ftcli.core.run import Run
from ftcli.objectives.reference import Reference
from ftcli.run.build import build_run

SMALL = (
    "data.limit=40", "data.validation=0.2", "eval=none", "model.quantization=none",
    "trainer.precision=fp32", "model.dtype=float32", "trainer.batch_size=4",
)  # fmt: skip


def build_small_run(*overrides: str) -> Run:
    composed = compose("qlora_mini", [*SMALL, *overrides])
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # as if it had been trained
        for p in run.model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p))
    return run


def pretrained(run: Run, batch) -> torch.Tensor:
    """Losses of the model as it is loaded."""
    torch.manual_seed(run.seed)
    with torch.no_grad():
        return run.objective(run.model_source.load(), batch).values


CASES = [
    (["method=lora", "method.r=4", "+method.lora_dropout=0.3"], "adapter_off"),
    (["method=ia3"], "adapter_off"),
    (["method=bottleneck"], "adapter_off"),
    (["method=lora", "method.r=4", "model.quantization=nf4"], "adapter_off"),
    (["method=prompt_tuning", "data.packing=none"], "adapter_off"),
    (["method=pissa", "method.r=4"], "separate"),
    (["method=full"], "separate"),
    (["method=full", "model.weights=random"], "separate"),
]


@pytest.mark.parametrize(("overrides", "mode"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_it_is_the_pretrained_function_and_leaves_no_trace(overrides, mode):
    run = build_small_run(*overrides)
    run.model.train()
    frozen = next(p for p in run.model.parameters() if p.requires_grad)
    frozen.requires_grad_(False)  # as a trainable policy does
    wanted_grads = [p.requires_grad for p in run.model.parameters()]
    modes = [m.training for m in run.model.modules()]
    batch = run.build_loader().batch(range(4))
    wanted = pretrained(run, batch)
    reference = Reference(run)
    torch.manual_seed(7)
    losses = reference(batch)
    drawn = torch.rand(1)
    assert reference.mode == mode
    assert torch.equal(losses.values, wanted) and not losses.values.requires_grad
    assert not losses.hidden.requires_grad
    assert (run.objective(run.model, batch).values - wanted).abs().max() > 1e-3
    assert [p.requires_grad for p in run.model.parameters()] == wanted_grads
    assert [m.training for m in run.model.modules()] == modes
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), drawn)  # nothing was drawn from the run's generator


def test_the_head_keeps_its_adapter_off_when_it_is_called_later():
    run = build_small_run("method=lora", "method.r=4", "+method.target_modules=[q_proj,lm_head]")
    batch = run.build_loader().batch(range(4))
    losses = Reference(run)(batch)
    with torch.no_grad():
        base = run.model_source.load().get_output_embeddings()(losses.hidden)
    assert torch.equal(losses.head(losses.hidden), base)


def test_adapter_off_is_refused_where_it_is_not_the_pretrained_model():
    with pytest.raises(UserError, match="not the pretrained model"):
        Reference(build_small_run("method=pissa", "method.r=4"), "adapter_off")


def test_one_copy_serves_all_who_ask():
    run = build_small_run("method=pissa", "method.r=4")
    first, second = Reference(run), Reference(run)
    with first.model() as a, second.model() as b:
        assert a is b and a is not run.model
        assert not any(p.requires_grad for p in a.parameters())


def test_a_separate_copy_may_be_asked_for():
    run = build_small_run("method=lora", "method.r=4")
    batch = run.build_loader().batch(range(4))
    values = [Reference(run, mode)(batch).values for mode in ("adapter_off", "separate")]
    assert torch.equal(*values)


def test_taps_of_the_run_do_not_see_it():
    run = build_small_run("method=lora", "method.r=4")
    block = run.model.get_base_model().model.layers[0]
    with Probes({"block": block}) as probes:
        Reference(run)(run.build_loader().batch(range(4)))
        assert probes.take() == {}
