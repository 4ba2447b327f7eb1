"""Attention that restarts at each document of a packed row, for any transformers model.

Packed batches are one flat row of documents. The loader's document lengths travel to every layer as
the keyword `documents`; each document attends causally to itself alone, by the library's fused
attention, so neither padding nor a T x T mask ever exists. Calls without `documents` (generation,
padded batches) go to transformers' own SDPA.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "documents"


def packed_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The model inputs by which a packed batch stays uncontaminated.

    A mask with four dimensions is passed through by transformers as it is; this one is a token of
    one element, which tells the layers that the documents' lengths must be there.
    """
    return {
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool),
        "documents": tuple(batch["lengths"].tolist()),
    }


@torch.compiler.disable  # lengths change with every batch: compiling them would never end
def documents_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    documents: tuple[int, ...] | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within documents: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].

    Raises:
        RuntimeError: the batch is packed but the model did not hand the lengths to its layers.
    """
    if documents is None:
        _refuse_lost_lengths(attention_mask, query)
        if softcap is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
            )
        groups = key.shape[1]
        return _softcapped(query, key, value, attention_mask, scaling, softcap, groups), None
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    dtype = query.dtype
    if query.device.type == "cpu" and dtype != torch.float32:
        # Half precision backward of the CPU kernel was measured 6 times slower than float32.
        query, key, value = query.float(), key.float(), value.float()
    pieces, start = [], 0
    for length, same in groupby(documents):
        count = len(list(same))
        part = slice(start, start + count * length)
        q, k, v = (_by_document(x[:, :, part], count) for x in (query, key, value))
        mask = _window(length, sliding_window, q.device) if causal else None
        out = _attend(q, k, v, mask, causal, dropout, scaling, softcap)
        pieces.append(out.transpose(1, 2).reshape(1, count * length, *out.shape[1::2]))
        start = part.stop
    return torch.cat(pieces, dim=1).to(dtype), None


def _refuse_lost_lengths(mask: Tensor | None, query: Tensor) -> None:
    if mask is not None and mask.shape[-1] == 1 and query.shape[2] > 1:
        raise RuntimeError(
            "this model's layers do not get the documents' lengths; set data.packing=none"
        )


def _by_document(x: Tensor, count: int) -> Tensor:
    """[1, H, n*L, D] -> [n, H, L, D]."""
    return x if count == 1 else x[0].unflatten(1, (count, -1)).transpose(0, 1)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    if softcap is None:
        return scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=causal and mask is None, scale=scaling
        )
    if mask is None and causal:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    return _softcapped(q, k, v, mask, scaling, softcap, k.shape[1]).transpose(1, 2)


def _softcapped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    cap: float,
    kv_heads: int,
) -> Tensor:
    """Scores limited to (-cap, cap) by tanh (Gemma 2, arXiv 2408.00118, section 2) -> [B, T, H, D]."""
    groups = q.shape[1] // kv_heads
    k, v = repeat_kv(k, groups), repeat_kv(v, groups)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.float().softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """The band of a sliding window [L, L]; None where the document is shorter than it."""
    if window is None or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


AttentionInterface.register(NAME, documents_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
