"""Concentration of the spectrum of the logits (BA-LoRA, arXiv 2408.04556, L_SVDR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ftcli.core.callback import State
from ftcli.objectives.base import Losses
from ftcli.papers.ba_lora.outputs import OutputPenalty, require_logits

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Spectrum(OutputPenalty):
    """-(sum of the k largest singular values) / (sum of all) of the matrix of logits, in [-1, -k/rank].

    The rows of the matrix are the labelled positions of a micro-batch (`form: classes`: its examples).
    Where there are more than `svd_positions`, they are a random subset, drawn at every step. The
    penalty is not additive over micro-batches: accumulated ones give the mean of their ratios.

    The official code indexes the singular values as a matrix, which raises for every input, and for
    generation it takes the matrix batch x (length * V), which for micro-batches of one has one singular
    value and the constant ratio 1. Neither is followed.

    Args:
        weight: the paper's lambda_3.
        k: number of the largest singular values in the numerator.
        svd_positions: largest number of rows; the cost grows with their square times V.
    """

    k: int = 3
    svd_positions: int = 128
    _seed: int = field(default=0, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Remember the seed."""
        self._seed = run.seed

    def before_step(self, state: State) -> None:
        """Remember the step; the subset is a function of seed, step and rows, so there is no state."""
        self._step = state.step

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """Return L_SVDR of the micro-batch."""
        hidden, head = require_logits(losses)
        with self.enable_gradient():
            return -top_mass(head(hidden[self._select_rows(len(hidden), batch["indices"])]), self.k)

    def _select_rows(self, count: int, rows: list[int]) -> Tensor:
        """Return the positions that are rows of the matrix, ascending."""
        if count <= self.svd_positions:
            return torch.arange(count)
        generator = np.random.default_rng([self._seed, self._step, *rows[:1]])
        return torch.from_numpy(np.sort(generator.permutation(count)[: self.svd_positions]))


def top_mass(logits: Tensor, k: int) -> Tensor:
    """Return the share of the k largest singular values of logits [n, V] in the sum of all; float32.

    Only values are differentiated: the gradient of singular vectors diverges where two values coincide.
    Values that are 0 up to rounding get no gradient, for they can only grow.
    """
    z = logits.float()
    with torch.autocast(z.device.type, enabled=False):
        values = torch.linalg.svdvals(z)
    rounding = values[:1].detach() * max(z.shape) * torch.finfo(values.dtype).eps
    values = torch.where(values > rounding, values, 0.0)
    return values[:k].sum() / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
