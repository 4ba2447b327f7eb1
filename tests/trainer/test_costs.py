"""OptimizerFootprint of a run, and the step loss over micro-batches with and without gradients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ftcli.config import compose
from ftcli.core.errors import UserError
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.optimizers.state import drop, elements, nbytes
from ftcli.penalties.base import Penalty
from ftcli.run.build import build_run

SMALL = (
    "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32", "data.limit=32",
    "data.validation=0.1", "eval=none", "method.r=2", "trainer.max_steps=2", "trainer.log_every=1",
)  # fmt: skip


def test_costs_of_a_run_are_in_its_result(trained_run: Path):
    result = json.loads((trained_run / "result.json").read_text())
    trained = result["trainable_parameters"]
    assert result["active_parameters"] == trained
    assert result["optimizer_state_elements"] == 2 * trained  # AdamW's two moments
    assert result["optimizer_state_bytes"] >= 4 * 2 * trained
    assert result["forward_passes"] == result["step"]


def test_dropping_state_makes_the_next_step_the_first():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones(3)
    optimizer.step()
    assert elements(optimizer) == 12 and nbytes(optimizer) == 2 * (6 * 4 + 4)
    drop(optimizer, weights[:1])
    assert elements(optimizer) == 6 and weights[0] not in optimizer.state


@dataclass
class MeanSquare(Penalty):
    """Mean square of the hidden states in front of the predictions."""

    def __call__(self, model, batch, losses):
        return losses.hidden.float().pow(2).mean()


def step_gradients(batches: int, weight: float, tmp_path: Path):
    words = ["data.packing=none", f"data.cache_dir={tmp_path}"]
    run = build_run(compose("qlora_mini", [*SMALL, *words]).config)
    if weight:
        run.penalties = {"square": MeanSquare(weight)}
    context = run.trainer.prepare_training(run)
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
    width = 8 // batches
    loader = run.build_loader()
    context.compute_gradients([loader.batch(list(range(i, i + width))) for i in range(0, 8, width)])
    return [p.grad.clone() for p in context.parameters], context.meter.metrics


def test_a_penalty_under_accumulation_equals_the_large_batch(tmp_path):
    whole, metrics = step_gradients(1, 0.1, tmp_path)
    parts, same = step_gradients(4, 0.1, tmp_path)
    plain, none = step_gradients(1, 0.0, tmp_path)
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(whole, parts, strict=True))
    assert metrics["penalty.square"][0] == pytest.approx(float(same["penalty.square"][0]), rel=1e-5)
    assert not none and any((a - b).abs().max() > 1e-3 for a, b in zip(whole, plain, strict=True))


class TwoLooks(torch.optim.Optimizer):
    """Evaluates the closure twice and leaves the weights unchanged."""

    uses_backward = False

    def __init__(self, params, lr=1.0):
        super().__init__(params, {"lr": lr})
        self.seen = []

    def step(self, closure):
        self.seen += [closure(), closure()]
        return self.seen[0]


def test_an_optimizer_without_backward_sees_a_pure_loss(tmp_path):
    words = ["method.lora_dropout=0.5", "trainer.batch_size=4", f"data.cache_dir={tmp_path}",
             "trainer.gradient_accumulation_steps=2"]  # fmt: skip
    run = build_run(compose("qlora_mini", [*SMALL, *words]).config)
    run.optimizer_builder._make = lambda groups, device: TwoLooks(
        [p for group in groups for _, p in group["params"]]
    )
    state = torch.get_rng_state()
    outcome = run.trainer.fit(run)
    seen = outcome.context.optimizer.seen
    assert len(seen) == 4 and seen[0] == seen[1] and seen[2] == seen[3] != seen[0]
    assert torch.isfinite(torch.stack(seen)).all() and state.shape == torch.get_rng_state().shape
    assert all(p.grad is None for p in run.model.parameters())
    assert outcome.context.meter.evaluations == 8


class Right(NextTokenPrediction):
    """A stand-in for an objective without gradient."""

    differentiable = False


def test_an_objective_without_gradient_is_refused_by_gradient_steps(tmp_path):
    run = build_run(compose("qlora_mini", [*SMALL, f"data.cache_dir={tmp_path}"]).config)
    run.objective = Right()
    with pytest.raises(UserError, match="Right has no gradient, and AdamW needs one"):
        run.trainer.fit(run)
