"""Attention within documents and between given keys: fused, with capped scores, with sinks, with windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention

from ftcli.models.attention_layout import Group, pad_group, unpad_group


@dataclass(frozen=True)
class AttentionSettings:
    """How a layer attends.

    Attributes:
        softcap: scores are limited to (-softcap, softcap) by tanh (Gemma 2, arXiv 2408.00118, 2).
        window: how many tokens back a token sees, its own included.
        chunk: tokens see only their own chunk of so many, counted from the document's first.
        sinks: [H] a logit a head that takes part in the softmax and adds nothing (gpt-oss).
    """

    causal: bool = True
    dropout: float = 0.0
    scaling: float | None = None
    softcap: float | None = None
    window: int | None = None
    chunk: int | None = None
    sinks: Tensor | None = None


class Layout(Protocol):
    """A row whose parts see more than themselves."""

    def within(self, states: Sequence[Tensor], how: AttentionSettings) -> Tensor:
        """Queries, keys and values [T, H, D] -> the attention's output [T, H, D]."""


def attend_within(
    states: Sequence[Tensor], documents: Sequence[Group], how: AttentionSettings
) -> Tensor:
    """Queries, keys and values [T, H, D] -> attention of each document to itself [T, H, D]."""
    pieces = []
    # `split`: the backward of slices would fill and add a full row of zeros for each of them
    parts = zip(*(x.split([group.tokens for group in documents]) for x in states), strict=True)
    for group, part in zip(documents, parts, strict=True):
        q, k, v = (pad_group(x, group) for x in part)
        mask = _local_mask(group.length, how, q.device) if how.causal else None
        if not how.causal and group.real is not None:
            mask = _key_mask(group, q.device)
        pieces.append(unpad_group(attend(q, k, v, mask, how), group))
    return torch.cat(pieces)


def _key_mask(group: Group, device: torch.device) -> Tensor:
    """Which keys are real [n, 1, 1, L], for models that look both ways."""
    assert group.real is not None
    real = torch.zeros(group.documents * group.length, dtype=torch.bool, device=device)
    return real.index_fill(0, group.real, True).view(group.documents, 1, 1, group.length)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: AttentionSettings) -> Tensor:
    """Queries [n, H, L, D], keys and values [n, H, S, D] -> [n, H, L, D]; a mask is all there is of it."""
    if how.softcap is not None:
        return _attend_capped(q, k, v, mask, how)
    if how.sinks is not None:
        return _attend_with_sinks(q, k, v, mask, how)
    return scaled_dot_product_attention(
        q, k, v, mask, how.dropout, is_causal=how.causal and mask is None, scale=how.scaling
    )


def _attend_capped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: AttentionSettings
) -> Tensor:
    """Attention with limited scores, for which torch has no fused kernel."""
    if how.sinks is not None:
        raise NotImplementedError("capped scores with sinks are not known here")
    assert how.softcap is not None
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if how.scaling is None else how.scaling)
    scores = how.softcap * torch.tanh(scores / how.softcap)
    if mask is None and how.causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = drop(scores.float().softmax(-1), how.dropout, training=how.dropout > 0)
    return weights.to(v.dtype) @ v


def _attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: AttentionSettings
) -> Tensor:
    """Attention with a sink: one more key in front, whose score is the head's logit and whose value is 0.

    The score comes from one more dimension, in which queries are 1 and only the sink's key is not 0; it
    is filled up to a multiple of 8 for the kernels. A query in front keeps the causal corner in place.
    """
    assert how.sinks is not None
    scale = q.shape[-1] ** -0.5 if how.scaling is None else how.scaling
    width = v.shape[-1]
    square = mask is None and how.causal
    q, k, v = (pad(x, (0, 8)) for x in (q, k, v))
    q[..., -1] = 1
    sink = torch.zeros_like(k[..., :1, :])
    sink[..., -1] = (how.sinks.to(k.dtype) / scale).view(-1, 1)
    k, v = torch.cat([sink, k], 2), pad(v, (0, 0, 1, 0))
    if square:
        q = pad(q, (0, 0, 1, 0))
    elif mask is not None:
        mask = pad(mask, (1, 0), value=True if mask.dtype == torch.bool else 0.0)
    out = scaled_dot_product_attention(q, k, v, mask, how.dropout, is_causal=square, scale=scale)[
        ..., :width
    ]
    return out[:, :, 1:] if square else out


def _local_mask(length: int, how: AttentionSettings, device: torch.device) -> Tensor | None:
    """What of a document [L, L] a window or chunk leaves; None where that is all of it."""
    window, chunk = how.window or length, how.chunk or length
    if length <= window and length <= chunk:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if length > window:
        seen = seen.triu(1 - window)
    if length > chunk:
        chunks = torch.arange(length, device=device) // chunk
        seen = seen & (chunks[:, None] == chunks)
    return seen
