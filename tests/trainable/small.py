"""Runs of a few steps on the shipped Llama of eight blocks, with a callback that records every step."""

from __future__ import annotations

from pathlib import Path

import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import Callback, State
from ftcli.core.run import Run
from ftcli.core.run_dir import RunDir
from ftcli.run.build import build_run

BASE = (
    "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32", "data.limit=40",
    "data.max_length=48", "trainer.epochs=null", "trainer.batch_size=2", "trainer.eval_first=false",
    "trainer.save_every=null", "trainer.eval_every=null", "trainer.log_every=1", "eval=none",
    "scheduler=constant", "optimizer.lr=1e-3",
)  # fmt: skip


def build(*overrides: str, folder: Path | None = None) -> Run:
    """A run, with a directory where a folder is given."""
    composed = compose("qlora_mini", [*BASE, *overrides])
    validate_and_convert(composed)
    if folder is not None:
        (folder / "checkpoints").mkdir(parents=True)
    run = build_run(composed.config, RunDir(folder) if folder else None)
    run.load_model()
    return run


def fitted(*overrides: str, folder: Path | None = None, resume: Path | None = None) -> Run:
    """A trained run."""
    run = build(*overrides, folder=folder)
    run.watch = Watch()
    run.loggers["watch"] = run.watch
    run.trainer.fit(run, checkpoint=resume)
    return run


class Watch(Callback):
    """Records after each step the trained blocks and the optimizer state."""

    def __init__(self) -> None:
        self.active: list[list[int]] = []  # blocks of each step
        self.graded: list[set[str]] = []  # names with a gradient
        self.weights: list[dict[str, torch.Tensor]] = []  # before the step
        self.states: list[dict[str, int]] = []  # name -> tensors of its state
        self.losses: list[float] = []

    def before_step(self, state: State) -> None:
        self.weights.append({n: p.detach().clone() for n, p in state.model.named_parameters()})
        policy = state.run.trainable
        self.active.append(list(policy.active) if policy else [])

    def after_backward(self, state: State) -> None:
        named = dict(state.model.named_parameters())
        self.graded.append({n for n, p in named.items() if p.grad is not None})

    def after_step(self, state: State) -> None:
        held = state.run.optimizer_builder.optimizer.state
        self.states.append(
            {
                n: sum(t.numel() > 1 for t in held[p].values())
                for n, p in state.model.named_parameters()
                if p in held and held[p]
            }
        )

    def on_log(self, state: State, metrics) -> None:
        self.losses.append(metrics["loss"])


def block_of(name: str) -> int | None:
    """Number of the block in a name such as `model.layers.3.mlp.up_proj.weight`."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else None


def same(one: Run, other: Run) -> bool:
    """Whether all trained tensors are equal to the last bit."""
    a, b = one.get_trained_tensors(), other.get_trained_tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
