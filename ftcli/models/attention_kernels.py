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
    """Settings of a layer's attention.

    Attributes:
        softcap: scores are limited to (-softcap, softcap) by tanh (Gemma 2, arXiv 2408.00118, 2).
        window: how many tokens back a token attends to, itself included.
        chunk: length of the chunks within which tokens attend, counted from the document's start.
        sinks: [H] logit of each head that takes part in the softmax and adds nothing (gpt-oss).
    """

    causal: bool = True
    dropout: float = 0.0
    scaling: float | None = None
    softcap: float | None = None
    window: int | None = None
    chunk: int | None = None
    sinks: Tensor | None = None


class SharedPromptLayout(Protocol):
    """A row in which documents attend to more than themselves."""

    def attend(self, states: Sequence[Tensor], settings: AttentionSettings) -> Tensor:
        """Attend queries, keys and values [T, H, D]; return the output [T, H, D]."""


def attend_within(
    states: Sequence[Tensor], documents: Sequence[Group], settings: AttentionSettings
) -> Tensor:
    """Attend queries, keys and values [T, H, D] within each document; return the output [T, H, D]."""
    pieces = []
    # `split`, as the backward of each slice would add a full row of zeros
    parts = zip(*(x.split([group.tokens for group in documents]) for x in states), strict=True)
    for group, part in zip(documents, parts, strict=True):
        q, k, v = (pad_group(x, group) for x in part)
        mask = _local_mask(group.length, settings, q.device) if settings.causal else None
        if not settings.causal and group.real is not None:
            mask = _key_mask(group, q.device)
        pieces.append(unpad_group(attend(q, k, v, mask, settings), group))
    return torch.cat(pieces)


def _key_mask(group: Group, device: torch.device) -> Tensor:
    """Return which keys are no padding, bool [n, 1, 1, L], for bidirectional models."""
    assert group.real is not None
    real = torch.zeros(group.documents * group.length, dtype=torch.bool, device=device)
    return real.index_fill(0, group.real, True).view(group.documents, 1, 1, group.length)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: AttentionSettings
) -> Tensor:
    """Attend queries [n, H, L, D] to keys and values [n, H, S, D]; return [n, H, L, D].

    Args:
        mask: bool or additive; with one, `settings.causal` and windows are not applied.
    """
    if settings.softcap is not None:
        return _attend_capped(q, k, v, mask, settings)
    if settings.sinks is not None:
        return _attend_with_sinks(q, k, v, mask, settings)
    return scaled_dot_product_attention(
        q,
        k,
        v,
        mask,
        settings.dropout,
        is_causal=settings.causal and mask is None,
        scale=settings.scaling,
    )


def _attend_capped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: AttentionSettings
) -> Tensor:
    """Attend with capped scores, for which torch has no fused kernel."""
    if settings.sinks is not None:
        raise NotImplementedError("attention with both capped scores and sinks is not implemented")
    assert settings.softcap is not None
    scores = (
        q
        @ k.transpose(2, 3)
        * (q.shape[-1] ** -0.5 if settings.scaling is None else settings.scaling)
    )
    scores = settings.softcap * torch.tanh(scores / settings.softcap)
    if mask is None and settings.causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = drop(scores.float().softmax(-1), settings.dropout, training=settings.dropout > 0)
    return weights.to(v.dtype) @ v


def _attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: AttentionSettings
) -> Tensor:
    """Attend with a sink: a further first key, whose score is the head's logit and whose value is 0.

    The score comes from a further dimension, in which queries are 1 and only the sink's key is not 0;
    8 dimensions are added, as kernels need a multiple of 8. A further first query keeps the causal mask
    square.
    """
    assert settings.sinks is not None
    scale = q.shape[-1] ** -0.5 if settings.scaling is None else settings.scaling
    width = v.shape[-1]
    square = mask is None and settings.causal
    q, k, v = (pad(x, (0, 8)) for x in (q, k, v))
    q[..., -1] = 1
    sink = torch.zeros_like(k[..., :1, :])
    sink[..., -1] = (settings.sinks.to(k.dtype) / scale).view(-1, 1)
    k, v = torch.cat([sink, k], 2), pad(v, (0, 0, 1, 0))
    if square:
        q = pad(q, (0, 0, 1, 0))
    elif mask is not None:
        mask = pad(mask, (1, 0), value=True if mask.dtype == torch.bool else 0.0)
    out = scaled_dot_product_attention(
        q, k, v, mask, settings.dropout, is_causal=square, scale=scale
    )[..., :width]
    return out[:, :, 1:] if square else out


def _local_mask(length: int, settings: AttentionSettings, device: torch.device) -> Tensor | None:
    """Return the causal mask [L, L] of a window or chunk; None where the document is within both."""
    window, chunk = settings.window or length, settings.chunk or length
    if length <= window and length <= chunk:
        return None
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if length > window:
        mask = mask.triu(1 - window)
    if length > chunk:
        chunks = torch.arange(length, device=device) // chunk
        mask = mask & (chunks[:, None] == chunks)
    return mask
