"""Deltas and artefacts in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ftcli.deltas.delta import Delta


def delta(tensors: dict[str, Tensor], base: str = "base", **options) -> Delta:
    """A delta of a model from tensors."""
    ordered = dict(sorted(tensors.items()))
    shapes = {name: tuple(tensor.shape) for name, tensor in ordered.items()}
    return Delta("model", base, shapes, lambda name: ordered[name].double(), **options)


def random(seed: int = 0, *shapes: tuple[int, ...]) -> Delta:
    """Normal values, as float32 holds them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = shapes or ((40, 30), (7,), (25, 8))
    return delta({f"t{i}": torch.randn(s, generator=generator) for i, s in enumerate(sizes)})


def flat(change: Delta) -> Tensor:
    """All values as one vector."""
    return torch.cat(list(change.flat()))
