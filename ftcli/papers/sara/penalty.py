"""Nuclear norm of the trained entries of a matrix (SaRA, arXiv 2409.06633)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.objectives.base import Losses
from ftcli.papers.sara.entries import TrainedEntries, find_entries
from ftcli.penalties.base import Penalty
from ftcli.trainable.base import Trainable

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Nuclear(Penalty):
    """Sum of the singular values of matrices that hold the trained entries and are 0 elsewhere.

    A singular value decomposition is expensive, so every step draws `per_step` of the matrices; the
    draw is a function of seed and step. The gradient is U V^T at the trained entries.

    Args:
        weight: the paper's lambda.
        per_step: number of matrices drawn at a step.
        min_dim: matrices with a side of this many entries or fewer are left out.
    """

    weight: float = 5.0e-4
    per_step: int = 1
    min_dim: int = 64
    _seed: int = field(default=0, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)
    _matrices: list[TrainedEntries] = field(default_factory=list, init=False, repr=False)

    def setup(self, run: Run) -> None:
        """Find the matrices.

        Raises:
            UserError: the method trains no entries of matrices that are large enough.
        """
        self._seed = run.seed
        self._matrices = [
            entries
            for entries in find_entries(run.model).values()
            if len(entries.shape) == 2 and min(entries.shape) > self.min_dim
        ]
        if not self._matrices:
            # with a trainable policy, method=sara may be refused in turn
            policy = type(run.trainable) not in (Trainable, type(None))
            raise UserError(
                f"penalty=nuclear finds no matrix above {self.min_dim} x {self.min_dim} of which "
                "single entries are trained.",
                where="penalty",
                fix="penalty=none" if policy else "method=sara",
            )

    def before_step(self, state: State) -> None:
        """Remember the step."""
        self._step = state.step

    def __call__(self, model: nn.Module, batch: dict[str, Any], losses: Losses) -> Tensor:
        """Return the sum over the matrices of this step; it does not depend on the batch."""
        norms = [nuclear_norm(entries.matrix()) for entries in self.draw_matrices()]
        return torch.stack(norms).sum()

    def draw_matrices(self) -> list[TrainedEntries]:
        """Return the entries of the matrices drawn at this step."""
        random = np.random.default_rng([self._seed, self._step])
        order = random.permutation(len(self._matrices))
        return [self._matrices[i] for i in order[: self.per_step]]


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Return the sum of the singular values of a matrix, in float32."""
    with torch.autocast(matrix.device.type, enabled=False):
        return torch.linalg.svdvals(matrix.float()).sum()
