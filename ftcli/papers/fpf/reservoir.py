"""The replay buffer: a uniform sample of the rows of a stream, and the logits that they had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftcli.core.callback import Callback

INSERT, DRAW = 1, 2  # components of the seeds of random numbers


class Reservoir(Callback):
    """Reservoir sampling (Vitter 1985): of n rows seen, each is held with probability size / n.

    A held row stands for its input and label: the data set gives both by the row's number. All draws
    are functions of the seed and of counters, so that a resumed run draws the same.

    Attributes:
        rows: numbers of the rows that are held.
        seen: how many were offered.
        logits: row -> float32 [classes], what the model gave for it when it was last trained on.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.rows: list[int] = []
        self.seen = 0
        self.logits: dict[int, Tensor] = {}

    def offer(self, rows: Sequence[int]) -> None:
        """Offer rows of the stream, each for the first time."""
        for row in rows:
            place = self._draw_place()
            self.seen += 1
            if place < len(self.rows):
                self.logits.pop(self.rows[place], None)
                self.rows[place] = row
            elif len(self.rows) < self.size:
                self.rows.append(row)

    def store_logits(self, rows: Sequence[int], logits: Tensor) -> None:
        """Store the logits [rows, classes] of those rows that are held."""
        held = set(self.rows)
        for row, values in zip(rows, logits.detach().float().cpu(), strict=True):
            if row in held:
                self.logits[row] = values.clone()

    def draw(self, count: int, step: int) -> list[int]:
        """Return `count` different rows, or all where there are fewer, for an optimizer step."""
        random = np.random.default_rng([self.seed, step, DRAW])
        return [self.rows[place] for place in random.permutation(len(self.rows))[:count]]

    def state_dict(self) -> dict[str, Any]:
        """Return rows, count and logits."""
        return {"rows": list(self.rows), "seen": self.seen, "logits": dict(self.logits)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.seen, self.logits = saved["rows"], saved["seen"], saved["logits"]

    def stack_logits(self, rows: Sequence[int]) -> Tensor:
        """Return the stored logits of held rows, float32 [rows, classes]."""
        return torch.stack([self.logits[row] for row in rows])

    def _draw_place(self) -> int:
        """Return the place of the next row: a full buffer holds only those below its size."""
        if self.seen < self.size:
            return self.seen
        return int(np.random.default_rng([self.seed, self.seen, INSERT]).integers(self.seen + 1))
