"""Distances of images in content, texture and colour, without a trained network."""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)


def content_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - correlation of the edge strengths, [B] in [0, 2], invariant to colour and contrast.

    Args:
        a, b: pixels [B, 3, h, w].
    """
    first, second = (_center(_edge_strengths(x)) for x in (a, b))
    norms = first.norm(dim=1) * second.norm(dim=1)
    return 1 - (first * second).sum(1) / norms.clamp_min(1e-12)


def gram_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the relative difference [B] of the Gram matrices of colours and their two derivatives.

    It is the Frobenius norm of the difference over that of b's matrix, which counts as at least 1e-12.
    """
    first, second = (_gram_matrix(x).flatten(1) for x in (a, b))
    return (first - second).norm(dim=1) / second.norm(dim=1).clamp_min(1e-12)


def color_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the Wasserstein-1 distance of the colour histograms, mean over channels, [B]."""
    first, second = (x.flatten(2).sort(-1).values for x in (a, b))
    return (first - second).abs().mean((1, 2))


def _differentiate(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return differences to the right and lower neighbour, [B, c, h - 1, w - 1] each."""
    return x[..., :-1, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, :-1]


def _edge_strengths(x: Tensor) -> Tensor:
    weights = torch.tensor(LUMINANCE, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    right, down = _differentiate((x * weights).sum(1, keepdim=True))
    return (right.square() + down.square()).sqrt().flatten(1)


def _center(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _gram_matrix(x: Tensor) -> Tensor:
    features = torch.cat([x[..., :-1, :-1], *_differentiate(x)], 1).flatten(2)
    return features @ features.transpose(1, 2) / features.shape[-1]
