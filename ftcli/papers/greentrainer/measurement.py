"""FLOPs and time of a run's selections, measured on its model and its first batches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from ftcli.papers.greentrainer.costs import TensorCosts
from ftcli.papers.greentrainer.flops import build_flop_counter
from ftcli.papers.greentrainer.probe import record_costs
from ftcli.reproduce.probe import rebuild_run

BATCHES = 2
ROUNDS = 5


@dataclass(frozen=True)
class Selection:
    """The tensors of some steps; `flops` are those of the backward pass of a step."""

    names: frozenset[str]
    steps: int
    flops: float


class RunCosts:
    """The run of a folder, built anew, and its selections as its events tell them.

    Attributes:
        selections: in order; one with all parameters where the run has no policy.
        forward: FLOPs of the forward pass of a step, the mean of the first batches.
    """

    def __init__(self, folder: Path) -> None:
        self.run = rebuild_run(folder)
        self.context = self.run.trainer.prepare_training(self.run)
        self.parameters = {n: p for n, p in self.run.model.named_parameters() if p.requires_grad}
        loader = self.context.loader
        self.batches = [loader.batch(rows) for rows in loader.list_batch_indices(0)[:BATCHES]]
        self.forward, self.full_backward = self._count_flops(self.parameters)
        steps = self.context.state.max_steps
        self.selections = [
            Selection(names, count, self._count_flops(names)[1])
            for names, count in _read_selections(folder, frozenset(self.parameters), steps)
        ]

    @property
    def full_step(self) -> float:
        """FLOPs of a step that trains all parameters."""
        return self.forward + self.full_backward

    @property
    def backward(self) -> float:
        """FLOPs of the backward pass, the mean over the steps of the run."""
        return sum(s.steps * s.flops for s in self.selections) / self.steps

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return sum(s.steps for s in self.selections)

    @cached_property
    def selecting(self) -> float:
        """FLOPs of a selection: a forward pass that is recorded, and the probe."""
        if self.run.trainable is None:
            return 0.0
        policy: Any = self.run.trainable
        with build_flop_counter() as counter:
            policy.select(self.context.state)
        return float(counter.get_total_flops())

    def record(self) -> TensorCosts:
        """Return the costs of the first batch by the model of costs, and restore all gradients."""
        self._activate(self.parameters)
        return record_costs(self.run, self.batches[0])

    def measure_step_time(self) -> float:
        """Return the time of a step of the first selection over that of one that trains everything.

        Forward, backward and optimizer step on the same batch, in turn; medians of a few rounds.
        """
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS + 1):  # the first round makes the optimizer's state
            for every in times:
                self._activate(self.parameters if every else self.selections[0].names)
                begin = time.perf_counter()
                self.context.compute_gradients(self.batches[:1])
                self.context.clip_and_step(0.0, self.run.trainer.max_grad_norm)
                times[every].append(time.perf_counter() - begin)
        return median(times[False][1:]) / median(times[True][1:])

    def _count_flops(self, names: Sequence[str] | Any) -> tuple[float, float]:
        """Return the FLOPs of forward and backward pass with these tensors trained, means over the batches."""
        self._activate(names)
        forward = backward = 0
        for batch in self.batches:
            with build_flop_counter() as counter:
                loss = self.run.objective(self.run.model, batch).values.sum()
            forward += counter.get_total_flops()
            with build_flop_counter() as counter:
                loss.backward()
            backward += counter.get_total_flops()
        self._activate(self.parameters)
        return forward / len(self.batches), backward / len(self.batches)

    def _activate(self, names: Any) -> None:
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in names)
            parameter.grad = None


@lru_cache(maxsize=None)
def measure_run(folder: Path) -> RunCosts:
    """Return the costs of a run; measured once a process."""
    return RunCosts(folder)


def _read_selections(
    folder: Path, every: frozenset[str], steps: int
) -> Iterator[tuple[frozenset[str], int]]:
    """Yield the tensors and the number of steps of each selection."""
    lines = map(json.loads, (folder / "events.jsonl").read_text(encoding="utf-8").splitlines())
    events = [line for line in lines if line["event"] == "selected_tensors"]
    if not events:
        yield every, steps
    ends = [event["step"] for event in events[1:]] + [steps]
    for event, end in zip(events, ends, strict=True) if events else ():
        yield frozenset(event["tensors"]), end - event["step"]
