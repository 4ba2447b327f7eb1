"""MeZO along the directions of a fixed pool of seeds: training learns one scalar for each seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftcli.optimizers.mezo import SEEDS, Direction, MeZO


class KSeed(MeZO):
    """Zeroth-order SGD whose directions come from K candidate seeds (Qin et al. 2023, arXiv 2312.06353).

    With z(s) ~ N(0, I) drawn from seed s, a step draws j from {1, ..., K} and computes

        g = (L(w + eps z(s_j)) - L(w - eps z(s_j))) / (2 eps),    w <- w - lr g z(s_j)

    so that after any number of steps, by any number of clients, w = w_0 - lr sum_j A_j z(s_j) with A_j
    the sum of the g of seed j. That holds for a constant rate and without weight decay. A step whose
    loss is not finite, or whose two losses differ by more than `clip`, is dropped.

    Args:
        params, weight_decay: as for MeZO.
        eps: half the distance along z between the two losses.
        pool: K, the number of candidate seeds.
        pool_seed: seed that the candidates are drawn from; it determines all of them.
        clip: largest difference of the two losses; 0: any.
        seed: seed of the choice among the candidates; null: the seed passed to `reseed`, 0 before that.
        copies: as for MeZO.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-7,
        weight_decay: float = 0.0,
        eps: float = 5e-4,
        pool: int = 4096,
        pool_seed: int = 0,
        clip: float = 0.0,
        seed: int | None = None,
        copies: int = 2**20,
    ) -> None:
        if not 1 <= pool <= SEEDS or clip < 0:
            raise ValueError(f"pool={pool}, clip={clip}: pool must be positive, clip not negative")
        super().__init__(params, lr, weight_decay, eps, seed=seed, copies=copies)
        self.clip = clip
        self.pool = draw_candidates(pool, pool_seed)
        self.probabilities: Tensor | None = None  # [K]; None: uniform
        self.index: int | None = None  # candidate of the last step; None: the step was dropped
        self.dropped = 0  # steps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step by two losses; returns the first, or that of the last step not dropped.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise ValueError("KSeed steps by losses: it needs step(closure)")
        index = self._draw_candidate()
        plus, minus = self._probe(self.pool[index], closure)
        slope = (float(plus) - float(minus)) / (2 * self.eps)
        self.index, self.last_directions = None, []
        if not math.isfinite(slope) or 0 < self.clip < abs(float(plus) - float(minus)):
            self.dropped += 1
            return self.last_figures.get("l1", 0.0)
        lr = _round_to_float32(self.param_groups[0]["lr"])
        direction = Direction(self.pool[index], _round_to_float32(slope), lr)
        self.last_figures = {
            "g": slope,
            "l1": float(plus),
            "l2": float(minus),
            "seed": direction.seed,
        }
        self._update([direction])
        self.index, self.last_directions = index, [direction]
        return plus

    @torch.no_grad()
    def apply_sums(self, sums: Sequence[float]) -> None:
        """Apply w <- w - lr sum_j sums_j z(s_j), in the order of the candidates; sums of 0 are skipped."""
        lr = self.param_groups[0]["lr"]
        for seed, value in zip(self.pool, sums, strict=True):
            if value:
                self._move(seed, -lr * value)

    def _draw_candidate(self) -> int:
        if self.probabilities is None:
            return int(torch.randint(len(self.pool), (), generator=self._seeds))
        return int(torch.multinomial(self.probabilities, 1, generator=self._seeds))


def draw_candidates(count: int, seed: int) -> list[int]:
    """Return `count` different seeds below `SEEDS`, drawn from one seed.

    The paper draws from [1, 10^11). torch's generator for CPUs keeps 32 bits of a seed, so that
    among larger ones some would give the same direction.
    """
    return random.Random(seed).sample(range(SEEDS), count)


def _round_to_float32(value: float) -> float:
    """Round to float32, the type in which scalars are sent, so that client and server use equal values."""
    return float(np.float32(value))
