"""MeZO: a step from two losses along a random direction that is regenerated from its seed, not stored."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

SEEDS = 10**9  # a direction's seed is drawn from {0, ..., SEEDS - 1}
#: Number of values of a direction that are in memory at a time: a step takes no more than inference.
#: Directions are drawn in chunks of this size, so another size gives other directions.
CHUNK = 2**18


class Direction(NamedTuple):
    """One direction of a step: its seed, the loss's slope along it, and the learning rate."""

    seed: int
    slope: float
    lr: float


class MeZO(Optimizer):
    """Zeroth-order stochastic gradient descent (Malladi et al. 2023, arXiv 2305.17333).

    With z ~ N(0, I) of the shape and type of each tensor (their algorithm 1, SPSA):

        g = (L(theta + eps z) - L(theta - eps z)) / (2 eps)        definition 1
        theta <- theta - lr (g z + weight_decay theta)

    z is never stored: it is regenerated from its seed, by generators of the optimizer. There is
    no state of the size of a parameter. With n `directions` their estimates are averaged: n seeds
    and slopes are kept and n updates of lr / n are made (n-SPSA).

    Adding and subtracting in place leaves rounding errors, about 1e-7 of a weight a step in
    float32 and far more in 16 bits; sets of at most `copies` values (adapters) are restored from
    copies instead, to the bit.

    Args:
        params: parameters or (name, parameter) pairs, or groups of them. z is drawn for the tensors
            with weight decay first, in the order given, then for those without. The authors draw in the
            model's own order, so that a log of their seeds is not one of ours. One tensor under two
            names is updated once.
        eps: distance from theta at which the two losses are computed, in units of z.
        directions: number of directions a step; each takes two losses.
        seed: seed of the directions; null: 0, or the seed passed to `reseed`.
        copies: largest number of values that are restored from copies; 0 never copies.
        no_decay: patterns of the names of parameters without weight decay.
    """

    takes_names = True
    uses_backward = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-6,
        weight_decay: float = 0.0,
        eps: float = 1e-3,
        directions: int = 1,
        seed: int | None = None,
        copies: int = 2**20,
        no_decay: Sequence[str] = ("*bias", "*norm*", "*ln_*"),
    ) -> None:
        if lr < 0 or eps <= 0 or directions < 1:
            raise ValueError(f"lr={lr}, eps={eps}, directions={directions}: must be positive")
        self.eps, self.directions, self.copies, self.seed = eps, directions, copies, seed
        self.no_decay = tuple(no_decay)
        self._seeds = torch.Generator().manual_seed(seed or 0)
        self._generators: dict[torch.device, torch.Generator] = {}
        self.last_directions: list[Direction] = []  # the directions of the last step
        self.last_figures: dict[str, float] = {}  # figures of the last direction: g, l1, l2, seed
        defaults = {"lr": lr, "weight_decay": weight_decay}
        seen: set[tuple[int, torch.Size]] = set()
        groups = [part for g in _as_groups(params) for part in self._split({**defaults, **g}, seen)]
        super().__init__(groups, defaults)

    def reseed(self, seed: int) -> None:
        """Restart the sequence of directions from a seed, unless the seed was set at construction."""
        if self.seed is None:
            self._seeds.manual_seed(seed)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step from 2 * `directions` losses; return the first of them.

        Args:
            closure: returns the loss of the current batch; a pure function of the weights, without backward.
        """
        if closure is None:
            raise ValueError("MeZO steps by losses: it needs step(closure)")
        lr, directions, losses = _round_to_float32(self.param_groups[0]["lr"]), [], []
        for _ in range(self.directions):
            seed = int(torch.randint(SEEDS, (), generator=self._seeds))
            plus, minus = self._probe(seed, closure)
            slope = (float(plus) - float(minus)) / (2 * self.eps)
            directions.append(Direction(seed, _round_to_float32(slope), lr))
            losses.append(plus)
            self.last_figures = {"g": slope, "l1": float(plus), "l2": float(minus), "seed": seed}
        self._update(directions)
        self.last_directions = directions
        return losses[0]

    @torch.no_grad()
    def replay(self, directions: Sequence[Direction]) -> None:
        """Repeat a step from its seeds and slopes, without a loss; equal to the bit."""
        for direction in directions:
            self._probe(
                direction.seed, lambda: 0.0
            )  # repeats the rounding errors of adding and subtracting
        self._update(directions)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch, and the position in the sequence of directions."""
        place = {"generator": self._seeds.get_state(), "last": dict(self.last_figures)}
        return super().state_dict() | {"directions": place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._seeds.set_state(state_dict["directions"]["generator"])
        self.last_figures = dict(state_dict["directions"]["last"])

    def _probe(self, seed: int, closure: Callable[[], Any]) -> tuple[Any, Any]:
        """Return the losses at theta + eps z and theta - eps z; theta is restored afterwards."""
        held = self._copy_weights()
        self._move(seed, self.eps)
        plus = closure()
        self._restore_weights(held)
        self._move(seed, -self.eps if held else -2 * self.eps)
        minus = closure()
        if held:
            self._restore_weights(held)
        else:
            self._move(seed, self.eps)
        return plus, minus

    def _update(self, directions: Sequence[Direction]) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["weight_decay"] and parameter.requires_grad:
                    parameter.mul_(1 - directions[0].lr * group["weight_decay"])
        for direction in directions:
            self._move(direction.seed, -direction.lr / len(directions) * direction.slope)

    def _move(self, seed: int, by: float) -> None:
        """Add `by` * z to the weights, z being the direction of this seed."""
        for index, device in enumerate(dict.fromkeys(p.device for p in self._iterate_trainable())):
            if device.type == "meta":
                return
            generator = self._generators.setdefault(device, torch.Generator(device))
            generator.manual_seed(
                seed + SEEDS * index
            )  # otherwise all devices would draw the same values
        for parameter in self._iterate_trainable():
            generator = self._generators[parameter.device]
            for part in _pieces(parameter):
                z = torch.empty_like(part).normal_(generator=generator)
                part.add_(z, alpha=by)

    def _iterate_trainable(self) -> Iterator[Tensor]:
        """Yield the tensors in order, without those that a trainable policy has frozen."""
        for group in self.param_groups:
            yield from (p.detach() for p in group["params"] if p.requires_grad)

    def _copy_weights(self) -> list[Tensor]:
        trainable = list(self._iterate_trainable())
        return (
            [p.clone() for p in trainable]
            if sum(p.numel() for p in trainable) <= self.copies
            else []
        )

    def _restore_weights(self, held: list[Tensor]) -> None:
        for parameter, value in zip(self._iterate_trainable(), held, strict=False):
            parameter.copy_(value)

    def _split(
        self, group: dict[str, Any], seen: set[tuple[int, torch.Size]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the parts of a group with and without weight decay, without tensors that occurred before."""
        pairs = [entry if isinstance(entry, tuple) else ("", entry) for entry in group["params"]]
        parts: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, parameter in pairs:
            key = (parameter.data_ptr(), parameter.shape)
            if key[0] and key in seen:
                continue
            seen.add(key)
            parts[not any(fnmatchcase(name, p) for p in self.no_decay)].append(parameter)
        for decays, chosen in parts.items():
            if chosen:
                decay = group["weight_decay"] if decays else 0.0
                yield {**group, "params": chosen, "weight_decay": decay}


def _pieces(parameter: Tensor) -> Sequence[Tensor]:
    """Return views of a tensor of at most CHUNK values; the whole tensor where it is not contiguous."""
    return parameter.view(-1).split(CHUNK) if parameter.is_contiguous() else [parameter]


def _round_to_float32(value: float) -> float:
    """Round to float32, the precision of the step log."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    entries = list(params)
    return entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
