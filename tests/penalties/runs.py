"""Runs of the packaged job without a directory, of a few steps on a few rows of E2E."""

from __future__ import annotations

import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.run import Run
from ftcli.run.build import build_run
from ftcli.trainer.loss import StepLoss

SMALL = (
    "data.limit=40", "data.validation=0.2", "trainer.epochs=null", "eval=none",
    "model.quantization=none", "trainer.log_every=1", "trainer.precision=fp32",
    "model.dtype=float32", "trainer.max_steps=2", "trainer.batch_size=4",
    "trainer.eval_first=false", "trainer.save_every=null", "scheduler=constant",
)  # fmt: skip
#: One plain gradient step, so that a difference of gradients is one of weights.
SGD = ("optimizer.optimizer_class=torch.optim.SGD", "optimizer.lr=0.1", "trainer.max_steps=1")


def build(*overrides: str) -> Run:
    composed = compose("qlora_mini", [*SMALL, *overrides])
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    return run


def fitted(*overrides: str) -> Run:
    run = build(*overrides)
    run.trainer.fit(run)
    return run


def start(*overrides: str):
    """A run ready for its first step, and the batches of that step."""
    run = build(*overrides)
    context = run.trainer.prepare_training(run)
    context.run_callbacks("before_step")
    width = run.trainer.gradient_accumulation_steps
    return run, [
        run.build_loader().batch(rows) for rows in run.build_loader().list_batch_indices(0)[:width]
    ]


def step_loss(run, batches) -> StepLoss:
    return StepLoss(run, run.model, batches, lambda value: value)


def wake(model, scale: float = 0.02) -> None:
    """Move what is trained off its start, where the model is its base."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn(p.shape, generator=generator))


def weights(run) -> list[torch.Tensor]:
    return [p.detach() for p in run.model.parameters() if p.requires_grad]


def furthest(a: Run, b: Run) -> float:
    pairs = zip(weights(a), weights(b), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)
