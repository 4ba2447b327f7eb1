"""Metrics of training: losses since the last log, tokens a second, peak memory, optimizer state."""

from __future__ import annotations

import math
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli.core.callback import Callback, State
from ftcli.optimizers import state as optimizer_state

if TYPE_CHECKING:
    from ftcli.core.run import Run

#: Name of a metric -> its sum, and what the sum is divided by.
Sums = Mapping[str, tuple[float, float]]


@dataclass
class Step:
    """Metrics of one step, kept until they are logged.

    Attributes:
        step: counted from 1.
        indices: the examples of each micro-batch of this process, by their index in the prepared split.
        check_value: norm of the gradient, or the sum of all losses of a gradient-free step: not finite
            if any of them was not.
        check_name: what `check_value` is, for messages.
    """

    step: int
    loss: Tensor | float
    indices: list[list[int]]
    check_value: Tensor | float | None = None
    check_name: str = "gradient norm"


class NonFinite(Exception):
    """A loss, a gradient or the trained weights were infinite or not a number.

    Attributes:
        what, value, sentence: the quantity, its value, and both in words.
        step: the optimizer step, counted from 1.
        loss: the loss of that step.
        indices: the examples of each micro-batch of that step in this process.
        batches: these micro-batches, where they were still in memory.
        dumped: whether `dump_batch` was called.
        folder: folder of the dump, on the first rank.
    """

    def __init__(self, what: str, value: float, step: Step) -> None:
        self.sentence = f"the {what} was {value} at step {step.step}"
        super().__init__(self.sentence)
        self.what, self.value, self.step, self.indices = what, value, step.step, step.indices
        self.loss = float(step.loss)
        self.batches: list[dict[str, Any]] = []
        self.dumped = False
        self.folder: Path | None = None


class Meter:
    """Collects the metrics of steps on the device and reads them only when a line is logged."""

    def __init__(self) -> None:
        self.steps: list[Step] = []  # since the last log
        self.last = Step(0, 0.0, [])
        self.checked = 0  # number of `steps` that were read and are finite
        self.norm: Tensor | float | None = None
        self.tokens = 0  # of all ranks since the last log, not restored by a resume
        self.train_seconds = 0.0  # seconds of training since the last log
        self.total_train_seconds = 0.0  # seconds of training of the whole run
        self.total_tokens = 0
        # name -> sum since the log, and what it is divided by: steps, or a number of losses
        self.metrics: dict[str, tuple[Tensor | float, Tensor | float]] = {}
        self.evaluations = 0  # of the loss of a micro-batch, in the whole run
        self.since: float | None = (
            None  # when the timer was started; None while the timer is paused
        )

    def begin(self) -> None:
        """Start the timer: training starts, or continues after an evaluation or a save."""
        self.since = time.perf_counter()

    def pause(self) -> None:
        """Pause the timer: what follows until `begin` is not counted as training."""
        self._count_lap()
        self.since = None

    def _count_lap(self) -> None:
        """Count the time since the timer was started, or since the last lap, as training."""
        if self.since is not None:
            now = time.perf_counter()
            self.train_seconds, self.since = self.train_seconds + now - self.since, now

    def record_step(
        self,
        step: int,
        loss: Tensor,
        norm: Tensor | None,
        indices: list[list[int]],
        tokens: int,
        check_value: Tensor | None = None,
    ) -> None:
        """Record the completed step; reads nothing from an accelerator.

        Raises:
            NonFinite: a metric was not finite; checked here only on a CPU, where reading it is free.
        """
        self.last = Step(step, loss, indices, norm)
        if check_value is not None:
            self.last = Step(step, loss, indices, check_value, "sum of losses")
        self.steps.append(self.last)
        self.norm = norm
        self.tokens += tokens
        if loss.device.type == "cpu":
            self.check_pending()

    def check_pending(self) -> None:
        """Read the metrics of the steps that were not read yet, and check that they are finite.

        Raises:
            NonFinite: the first step whose metrics were not finite.
        """
        for step in self.steps[self.checked :]:
            step.loss = float(step.loss)
            step.check_value = None if step.check_value is None else float(step.check_value)
            raise_if_nonfinite(step)
            self.checked += 1

    def record_metrics(
        self,
        metrics: Mapping[str, Tensor],
        evaluations: int,
        source_losses: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Record further metrics of the step and its number of evaluations of the loss; reads nothing from an accelerator.

        Args:
            metrics: logged as means over steps.
            source_losses: title of a source -> sum of its losses and their number; logged as their
                quotient over all steps, `loss/<title>`.
        """
        self.evaluations += evaluations
        parts: dict[str, tuple[Any, Any]] = {name: (value, 1) for name, value in metrics.items()}
        parts |= {f"loss/{title}": part for title, part in (source_losses or {}).items()}
        for name, (value, count) in parts.items():
            total, counted = self.metrics.get(name, (0.0, 0))
            self.metrics[name] = (total + value, counted + count)

    def pop_metrics(
        self, average_over_ranks: Callable[[Sums], dict[str, float]]
    ) -> dict[str, float]:
        """Return mean loss since the last log, last gradient norm, tokens a second and peak memory in GB.

        Args:
            average_over_ranks: function that divides the sums of further metrics over all ranks by their counts.

        Raises:
            NonFinite: a metric of a step was not finite.
        """
        self._count_lap()
        self.check_pending()
        values = [float(step.loss) for step in self.steps]
        metrics = {"loss": sum(values) / len(values)} if values else {}
        metrics |= average_over_ranks(
            {n: (float(sum_), float(c)) for n, (sum_, c) in self.metrics.items()}
        )
        if self.norm is not None:
            metrics["grad_norm"] = float(self.norm)
        if self.train_seconds > 0 and self.tokens:
            metrics["tok_s"] = self.tokens / self.train_seconds
        metrics["mem_gb"] = peak_memory_gb()
        self.total_train_seconds += self.train_seconds
        self.total_tokens += self.tokens
        self.steps, self.checked, self.metrics, self.tokens, self.train_seconds = [], 0, {}, 0, 0.0
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return metrics not logged yet and totals, so that a resumed run logs the same lines."""
        self._count_lap()
        self.check_pending()
        return {
            "losses": [
                [step.step, step.loss, step.indices, step.check_value] for step in self.steps
            ],
            "busy": self.total_train_seconds + self.train_seconds,
            "tokens": self.total_tokens + self.tokens,
            "figures": {
                name: [float(total), float(n)] for name, (total, n) in self.metrics.items()
            },
            "forwards": self.evaluations,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.steps = [Step(*values) for values in saved["losses"]]
        self.checked = len(self.steps)
        self.total_train_seconds, self.total_tokens = saved["busy"], saved["tokens"]
        self.metrics = {name: (total, n) for name, (total, n) in saved["figures"].items()}
        self.evaluations = saved["forwards"]


class OptimizerFootprint(Callback):
    """Records optimizer state and trained parameters after every step, from tensor sizes alone.

    `optimizer_state_bytes` and `optimizer_state_elements` are the maxima after any step; counters of
    one element are not among the elements. `active_parameters` is the maximum that one step trained.
    """

    def __init__(self) -> None:
        self.peak = {
            "optimizer_state_bytes": 0, "optimizer_state_elements": 0, "active_parameters": 0,
        }  # fmt: skip
        self.parameters: list[Any] = []

    def setup(self, run: Run) -> None:
        """Collect the parameters that may be trained."""
        self.parameters = [p for p in run.model.parameters() if p.requires_grad]

    def after_step(self, state: State) -> None:
        """Update the peaks."""
        optimizer = state.run.optimizer_builder.optimizer
        self._record_peak("optimizer_state_bytes", optimizer_state.nbytes(optimizer))
        self._record_peak("optimizer_state_elements", optimizer_state.elements(optimizer))
        self._record_peak(
            "active_parameters", sum(p.numel() for p in self.parameters if p.requires_grad)
        )

    def _record_peak(self, name: str, value: int) -> None:
        self.peak[name] = max(self.peak[name], value)

    def state_dict(self) -> dict[str, Any]:
        """Return the peaks so far."""
        return dict(self.peak)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the peaks."""
        self.peak = dict(saved)


def raise_if_nonfinite(step: Step) -> None:
    """Raise NonFinite if the loss or the check_value of a step that was read is not finite."""
    for what, value in (("loss", step.loss), (step.check_name, step.check_value)):
        if value is not None and not math.isfinite(value):
            raise NonFinite(what, float(value), step)


def peak_memory_gb() -> float:
    """Return the peak memory so far in GB (1e9 bytes): allocated on the GPU, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    if (status := Path("/proc/self/status")).exists():
        # On Linux ru_maxrss survives exec, so it may be the parent's peak. VmHWM is this program's.
        kilobytes = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if kilobytes:
            return int(kilobytes[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
