"""Figures of the loop: losses since the last log, real tokens a second, peak memory."""

from __future__ import annotations

import math
import re
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class NonFinite(Exception):
    """A loss was infinite or not a number.

    Attributes:
        step: the optimizer step (counted from 1) it happened in.
        rows: the rows of that step.
    """

    def __init__(self, step: int, loss: float, rows: list[int]) -> None:
        super().__init__(f"loss {loss} at step {step}")
        self.step, self.loss, self.rows = step, loss, rows


class Meter:
    """Gathers the figures of steps on the device and reads them only when a line is logged."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, Tensor | float, list[int]]] = []
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

    def step(
        self, step: int, loss: Tensor, norm: Tensor | None, rows: list[int], tokens: int
    ) -> None:
        """Note the step just done; reads nothing from an accelerator."""
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise NonFinite(step, loss.item(), rows)
        self.losses.append((step, loss, rows))
        self.norm = norm
        self.tokens += tokens

    def note(self, figures: Mapping[str, Tensor], forwards: int) -> None:
        """Further figures of the step, which are logged as means, and its forward passes."""
        self.forwards += forwards
        for name, value in figures.items():
            total, steps = self.figures.get(name, (0.0, 0))
            self.figures[name] = (total + value, steps + 1)

    def read(self) -> dict[str, float]:
        """Mean loss since the last log, last gradient norm, tokens a second, peak memory."""
        self.pause()
        values = [float(loss) for _, loss, _ in self.losses]
        for value, (step, _, rows) in zip(values, self.losses, strict=True):
            if not math.isfinite(value):
                raise NonFinite(step, value, rows)
        figures = {"loss": sum(values) / len(values)} if values else {}
        figures |= {name: float(total) / steps for name, (total, steps) in self.figures.items()}
        if self.norm is not None:
            figures["grad_norm"] = float(self.norm)
        if self.busy > 0 and self.tokens:
            figures["tok_s"] = self.tokens / self.busy
        figures["mem_gb"] = peak_memory_gb()
        self.total_busy += self.busy
        self.total_tokens += self.tokens
        self.losses, self.figures, self.tokens, self.busy = [], {}, 0, 0.0
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Losses not logged yet, and the time so far: a resumed run logs the same lines."""
        self.pause()
        return {
            "losses": [[step, float(loss), rows] for step, loss, rows in self.losses],
            "busy": self.total_busy + self.busy,
            "tokens": self.total_tokens + self.tokens,
            "figures": {name: [float(total), n] for name, (total, n) in self.figures.items()},
            "forwards": self.forwards,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.losses = [(step, loss, rows) for step, loss, rows in saved["losses"]]
        self.total_busy, self.total_tokens = saved["busy"], saved["tokens"]
        self.figures = {name: (total, n) for name, (total, n) in saved["figures"].items()}
        self.forwards = saved["forwards"]


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
