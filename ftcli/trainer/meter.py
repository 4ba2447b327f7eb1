"""Figures of the loop: losses since the last log, real tokens a second, peak memory."""

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


@dataclass
class Step:
    """One step until it is logged.

    Attributes:
        step: counted from 1.
        rows: of each micro-batch of this process.
        probe: norm of the gradient, or the sum of all losses that a search asked for: not finite
            where any of them was not.
    """

    step: int
    loss: Tensor | float
    rows: list[list[int]]
    probe: Tensor | float | None = None
    probed: str = "gradient norm"


class NonFinite(Exception):
    """A loss, a gradient or the trained weights were infinite or not a number.

    Attributes:
        what, value, sentence: which of them, and in words.
        step: the optimizer step (counted from 1) it happened in.
        loss: of that step.
        rows: of each micro-batch of that step in this process.
        batches: these micro-batches, where they were still there.
        folder: where they were written to.
    """

    def __init__(self, what: str, value: float, step: Step) -> None:
        self.sentence = f"the {what} was {value} at step {step.step}"
        super().__init__(self.sentence)
        self.what, self.value, self.step, self.rows = what, value, step.step, step.rows
        self.loss = float(step.loss)
        self.batches: list[dict[str, Any]] = []
        self.dumped = False  # whether `dump_batch` was called for this error
        self.folder: Path | None = None  # where they lie, on the first rank


class Meter:
    """Gathers the figures of steps on the device and reads them only when a line is logged."""

    def __init__(self) -> None:
        self.steps: list[Step] = []  # since the last log
        self.last = Step(0, 0.0, [])
        self.checked = 0  # how many of them were read and are finite
        self.norm: Tensor | float | None = None
        self.tokens = 0  # since the last log, in this process
        self.busy = 0.0  # seconds of training since the last log
        self.total_busy = 0.0  # seconds of training of the whole run
        self.total_tokens = 0
        self.figures: dict[str, tuple[Tensor | float, int]] = {}  # name -> sum since the log, steps
        self.forwards = 0  # forward passes of the whole run
        self.first_step: float | None = None  # seconds from `begin` to the end of the first step
        self.began = self.since = time.perf_counter()

    def begin(self) -> None:
        """Training starts, or goes on after an evaluation or a save."""
        self.since = time.perf_counter()

    def pause(self) -> None:
        """Count the time up to now as training."""
        now = time.perf_counter()
        self.busy += now - self.since
        self.since = now

    def record_step(
        self,
        step: int,
        loss: Tensor,
        norm: Tensor | None,
        rows: list[list[int]],
        tokens: int,
        probe: Tensor | None = None,
    ) -> None:
        """Note the step just done; reads nothing from an accelerator.

        Raises:
            NonFinite: a figure was not finite, on a CPU, where looking costs nothing.
        """
        self.last = Step(step, loss, rows, norm)
        if probe is not None:
            self.last = Step(step, loss, rows, probe, "sum of losses")
        self.steps.append(self.last)
        self.norm = norm
        self.tokens += tokens
        if loss.device.type == "cpu":
            self.check_pending()

    def check_pending(self) -> None:
        """Read the figures of steps that were not read yet.

        Raises:
            NonFinite: those of a step were not finite; it is the first step.
        """
        for step in self.steps[self.checked :]:
            step.loss = float(step.loss)
            step.probe = None if step.probe is None else float(step.probe)
            raise_if_nonfinite(step)
            self.checked += 1

    def record_figures(self, figures: Mapping[str, Tensor], forwards: int) -> None:
        """Further figures of the step, which are logged as means, and its forward passes."""
        self.forwards += forwards
        for name, value in figures.items():
            total, steps = self.figures.get(name, (0.0, 0))
            self.figures[name] = (total + value, steps + 1)

    def read(self, over_ranks: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
        """Mean loss since the last log, last gradient norm, tokens a second, peak memory.

        Args:
            over_ranks: makes of this process's further figures those of all.

        Raises:
            NonFinite: a figure of a step was not finite.
        """
        self.pause()
        self.check_pending()
        values = [float(step.loss) for step in self.steps]
        figures = {"loss": sum(values) / len(values)} if values else {}
        local_figures = {
            name: float(total) / steps for name, (total, steps) in self.figures.items()
        }
        figures |= over_ranks(local_figures)
        if self.norm is not None:
            figures["grad_norm"] = float(self.norm)
        if self.busy > 0 and self.tokens:
            figures["tok_s"] = self.tokens / self.busy
        figures["mem_gb"] = peak_memory_gb()
        self.total_busy += self.busy
        self.total_tokens += self.tokens
        self.steps, self.checked, self.figures, self.tokens, self.busy = [], 0, {}, 0, 0.0
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Losses not logged yet, and the time so far: a resumed run logs the same lines."""
        self.pause()
        self.check_pending()
        return {
            "losses": [[step.step, step.loss, step.rows, step.probe] for step in self.steps],
            "busy": self.total_busy + self.busy,
            "tokens": self.total_tokens + self.tokens,
            "figures": {name: [float(total), n] for name, (total, n) in self.figures.items()},
            "forwards": self.forwards,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.steps = [Step(*values) for values in saved["losses"]]
        self.checked = len(self.steps)
        self.total_busy, self.total_tokens = saved["busy"], saved["tokens"]
        self.figures = {name: (total, n) for name, (total, n) in saved["figures"].items()}
        self.forwards = saved["forwards"]


class Costs(Callback):
    """Counts after every step; nothing is read from an accelerator, only sizes.

    `optimizer_state_bytes` and `_elements` are the most that was held after any step, counters of
    one element left out of the elements. `active_parameters` is the most that moved at one step.
    """

    def __init__(self) -> None:
        self.peak = {
            "optimizer_state_bytes": 0, "optimizer_state_elements": 0, "active_parameters": 0,
        }  # fmt: skip
        self.parameters: list[Any] = []

    def setup(self, run: Run) -> None:
        """Remember what may move."""
        self.parameters = [p for p in run.model.parameters() if p.requires_grad]

    def after_step(self, state: State) -> None:
        """Count."""
        optimizer = state.run.optimizer.optimizer
        self._record_peak("optimizer_state_bytes", optimizer_state.nbytes(optimizer))
        self._record_peak("optimizer_state_elements", optimizer_state.elements(optimizer))
        self._record_peak(
            "active_parameters", sum(p.numel() for p in self.parameters if p.requires_grad)
        )

    def _record_peak(self, name: str, value: int) -> None:
        self.peak[name] = max(self.peak[name], value)

    def state_dict(self) -> dict[str, Any]:
        """The peaks so far."""
        return dict(self.peak)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.peak = dict(saved)


def raise_if_nonfinite(step: Step) -> None:
    """Raise NonFinite where the figures of a step, read already, are not finite."""
    for what, value in (("loss", step.loss), (step.probed, step.probe)):
        if value is not None and not math.isfinite(value):
            raise NonFinite(what, float(value), step)


def peak_memory_gb() -> float:
    """Highest memory so far in GB (1e9 bytes): allocated on the GPU, else resident of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    if (status := Path("/proc/self/status")).exists():
        # Linux also has ru_maxrss, but that survives exec: it is the parent's peak where that was
        # higher. VmHWM is this program's own.
        kilobytes = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if kilobytes:
            return int(kilobytes[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
