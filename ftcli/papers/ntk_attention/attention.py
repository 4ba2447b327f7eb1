"""Attention with an infinitely long prefix (NTK-Attention, arXiv 2406.14036, algorithm 2).

    out(q) = (sum_j exp(s_j) V_j + phi(q)^T Z) / (sum_j exp(s_j) + phi(q)^T |k|),   s_j = q K_j / sqrt(d)

with phi(u) = elu(u / d^(1/4)) + 1. A vector k [d] and a matrix Z [d, d] a head take the place of the sums of
phi(P_K) and phi(P_K) P_V^T over the keys and values of a prefix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ftcli.models.attention import NAME as DOCUMENTS
from ftcli.models.attention import documents_attention

LIBRARY = (DOCUMENTS, "sdpa", "eager")
PAD = 8  # further channels of values, as the kernel of sinks adds 8 to queries and keys


def map_features(x: Tensor) -> Tensor:
    """Return phi(x) = elu(x / d^(1/4)) + 1 of [.., d], which is positive.

    Below 0 that is an exponential; `elu` plus 1 would round it, from about -17 on to 0.
    """
    u = x / x.shape[-1] ** 0.25
    return torch.where(u > 0, u + 1, u.clamp(max=0).exp())


def take_magnitude(k: Tensor) -> Tensor:
    """Return |k|, whose gradient at 0 is 1: that of torch's `abs` is 0, with which a k of 0 never moves."""
    return torch.where(k < 0, -k, k)


def summarise_prefix(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return k [.., d] and Z [.., d, d] that stand for a prefix of keys and values [.., m, d]."""
    features = map_features(keys)
    return features.sum(-2), features.transpose(-1, -2) @ values


def attend_with_prefix(
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    k: Tensor,
    Z: Tensor,
    feature_dropout: nn.Module,
    **kwargs: Any,
) -> Tensor:
    """Return the output [B, T, H, d] of a layer's attention with its prefix term, computed in float32.

    The fused kernel gets a sink of logit 0 beside the keys, and a channel of ones beside the values. With
    S = sum_j exp(s_j) it gives S V' / (S + 1), V' the layer's own output, and S / (S + 1) = 1 - w, from which

        out = (S V' / (S + 1) + w phi(q)^T Z) / (1 - w + w phi(q)^T |k|).

    This is the formula above with both sides of the fraction times w = 1 / (S + 1), so that no exponential
    overflows: the kernel subtracts the largest of all scores and 0. Masked keys have no part in that maximum. Where all
    scores are below -88 what is left is the prefix term.

    Args:
        implementation: name of the attention that the model has.
        query: [B, H, T, d]; key and value have as many heads or a divisor of it.
        k, Z: [H, d] and [H, d, d].
        feature_dropout: applied to phi(q).
        kwargs: further arguments of the layer's attention.

    Raises:
        NotImplementedError: the layer has sinks of its own, or caps its scores.
    """
    if kwargs.pop("s_aux", None) is not None:
        raise NotImplementedError("attention with both sinks and a prefix term is not implemented")
    states = [x.float() for x in (query, key, value)]
    q, width = states[0], value.shape[-1]
    ones = torch.ones_like(states[2][..., :1])
    states[2] = pad(torch.cat([states[2], ones], -1), (0, PAD - 1))
    attend = documents_attention
    if implementation not in LIBRARY:  # a plan on the meta device
        attend = ALL_ATTENTION_FUNCTIONS[implementation]
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        sinks = q.new_zeros(q.shape[1])
        out, _ = attend(module, *states, attention_mask, s_aux=sinks, **kwargs)
        own, share = out[..., :width], out[..., width : width + 1]
        features = feature_dropout(map_features(q)).transpose(1, 2)  # [B, T, H, d]
        weight = 1 - share
        numerator = torch.einsum("bthd,hde->bthe", features, Z.float())
        denominator = torch.einsum("bthd,hd->bth", features, take_magnitude(k.float()))
        total = (share + weight * denominator[..., None]).clamp(min=torch.finfo(q.dtype).tiny)
    mixed: Tensor = (own + weight * numerator) / total
    return mixed.to(query.dtype)
