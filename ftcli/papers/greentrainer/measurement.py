"""FLOPs and time of a run's selections, measured on its model and its first batch."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ftcli.papers.greentrainer.flops import build_flop_counter
from ftcli.papers.greentrainer.probe import record_costs
from ftcli.reproduce.probe import rebuild_run

ROUNDS = 4


@dataclass(frozen=True)
class RunFlops:
    """FLOPs of a run on its first batch, as torch counts them.

    Attributes:
        forward: of a forward pass.
        full_backward: of a backward pass with all parameters.
        backward: of the backward pass of each selection.
        steps: number of steps of each selection.
        selecting: of a selection: a forward pass that is recorded, and the probe.
        modelled_step: of a step with all parameters, by the cost model.
    """

    forward: float
    full_backward: float
    backward: tuple[float, ...]
    steps: tuple[int, ...]
    selecting: float
    modelled_step: float

    @property
    def full_step(self) -> float:
        """FLOPs of a step with all parameters."""
        return self.forward + self.full_backward

    @property
    def mean_backward(self) -> float:
        """FLOPs of a backward pass, the mean over the steps."""
        total = sum(n * flops for n, flops in zip(self.steps, self.backward, strict=True))
        return total / sum(self.steps)

    @property
    def training(self) -> float:
        """FLOPs of all steps and selections."""
        steps = sum(self.steps) * (self.forward + self.mean_backward)
        return steps + len(self.steps) * self.selecting


@cache
def measure_flops(folder: Path) -> RunFlops:
    """Return the FLOPs of a run; they are counted once a process."""
    replay = Replay(folder)
    forward, full_backward = replay.count_flops(replay.parameters)
    backward = tuple(replay.count_flops(names)[1] for names, _ in replay.selections)
    selecting, policy = 0.0, replay.run.trainable
    costs = record_costs(replay.run, replay.batch)
    if policy is not None:
        with build_flop_counter() as counter:
            policy.select(replay.context.state)
        selecting = float(counter.get_total_flops())
    modelled = 2 * costs.compute_step(np.ones(len(costs.names), dtype=bool))
    steps = tuple(count for _, count in replay.selections)
    return RunFlops(forward, full_backward, backward, steps, selecting, modelled)


class Replay:
    """The run of a folder, built anew, with its first batch and its selections.

    Attributes:
        selections: tensors and number of steps of each; all parameters where the run has no policy.
    """

    def __init__(self, folder: Path) -> None:
        self.run = rebuild_run(folder)
        self.context = self.run.trainer.prepare_training(self.run)
        self.parameters = {n: p for n, p in self.run.model.named_parameters() if p.requires_grad}
        loader = self.context.loader
        self.batch = loader.batch(loader.list_batch_indices(0)[0])
        steps = self.context.state.max_steps
        self.selections = list(_read_selections(folder, frozenset(self.parameters), steps))

    def count_flops(self, names: Collection[str]) -> tuple[float, float]:
        """Return the FLOPs of forward and backward pass with these tensors trained; all are trained afterwards."""
        self._activate(names)
        with build_flop_counter() as forward:
            loss = self.run.objective(self.run.model, self.batch).values.sum()
        with build_flop_counter() as backward:
            loss.backward()
        self._activate(self.parameters)
        return float(forward.get_total_flops()), float(backward.get_total_flops())

    def measure_step_time(self) -> float:
        """Return the time of a step of the first selection over that of a step with all parameters.

        Forward, backward and optimizer step on the same batch, in turn; medians of a few rounds.
        """
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS + 1):  # the first round makes the optimizer's state
            for every in times:
                self._activate(self.parameters if every else self.selections[0][0])
                begin = time.perf_counter()
                self.context.compute_gradients([self.batch])
                self.context.clip_and_step(0.0, self.run.trainer.max_grad_norm)
                times[every].append(time.perf_counter() - begin)
        return median(times[False][1:]) / median(times[True][1:])

    def _activate(self, names: Collection[str]) -> None:
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in names)
            parameter.grad = None


def _read_selections(
    folder: Path, every: frozenset[str], steps: int
) -> Iterator[tuple[frozenset[str], int]]:
    """Yield the tensors and the number of steps of each selection."""
    lines = map(json.loads, (folder / "events.jsonl").read_text(encoding="utf-8").splitlines())
    events: list[dict[str, Any]] = [e for e in lines if e["event"] == "selected_tensors"]
    if not events:
        yield every, steps
        return
    ends = [*(event["step"] for event in events[1:]), steps]
    for event, end in zip(events, ends, strict=True):
        yield frozenset(event["tensors"]), end - event["step"]
