"""Attention that restarts at each document of a packed row, for any transformers model.

Packed batches are one flat row of documents. The loader's document lengths travel to every layer as
the keyword `documents`; each document attends causally to itself alone, by the library's fused
attention, so neither padding nor a T x T mask ever exists. Calls without `documents` (generation,
padded batches) go to transformers' own SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "documents"
#: Rows are a multiple of this many tokens long. Kernels are made (and kept) for each new shape: in
#: bf16 on a CPU, free lengths were measured to cost 10 % of the time and, in 60 steps, 500 MB.
ALIGNMENT = 64


@dataclass(frozen=True)
class Group:
    """Neighbouring documents of like length that attend in one call, padded to the longest.

    `real` holds the places [t] of their tokens in the padded [n * length]; None where all are full.
    """

    tokens: int
    documents: int
    length: int
    real: Tensor | None

    def to(self, device: torch.device | str) -> Group:
        """The same with its tensor on a device."""
        return self if self.real is None else replace(self, real=self.real.to(device))


@dataclass(frozen=True)
class Settings:
    """How a layer attends; `window` is how many tokens back it sees, its own included."""

    causal: bool = True
    dropout: float = 0.0
    scaling: float | None = None
    softcap: float | None = None
    window: int | None = None


class Layout(Protocol):
    """A row whose parts see more than themselves."""

    def within(self, states: Sequence[Tensor], how: Settings) -> Tensor:
        """Queries, keys and values [T, H, D] -> the attention's output [T, H, D]."""


def layout(lengths: Sequence[int]) -> tuple[Group, ...]:
    """The groups of a packed row, in order.

    A call costs about as much as a dozen tokens, so documents within an eighth of each other (and
    8 tokens) share one; the padding touches attention alone, and no real token ever sees it.
    """
    runs: list[list[int]] = []
    for length in lengths:
        low, high = (min(*runs[-1], length), max(*runs[-1], length)) if runs else (0, 0)
        if runs and high <= low + low // 8 + 8:
            runs[-1].append(length)
        else:
            runs.append([length])
    groups = []
    for run in runs:
        longest, real = max(run), None
        if min(run) < longest:
            real = torch.cat([torch.arange(n) + i * longest for i, n in enumerate(run)])
        groups.append(Group(sum(run), len(run), longest, real))
    return tuple(groups)


def packed_inputs(batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """The model inputs by which a packed batch stays uncontaminated.

    A mask with four dimensions is passed through by transformers as it is; this one is a token of
    one element, which tells the layers that the documents' layout must be there. The row is filled
    up to a multiple of `ALIGNMENT` by a last document without labels.
    """
    lengths = batch["lengths"].tolist()
    spare = -sum(lengths) % ALIGNMENT
    return {
        "input_ids": pad(batch["input_ids"], (0, spare)),
        "position_ids": pad(batch["position_ids"], (0, spare)),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "documents": _documents(batch, lengths, spare, device),
    }


def _documents(
    batch: dict[str, Any], lengths: list[int], spare: int, device: torch.device | str
) -> tuple[Group, ...] | Layout:
    """The layout; where the batch says `shared`, answers see the prompt that stands there for all."""
    if "shared" not in batch:
        groups = layout([*lengths, spare] if spare else lengths)
        return tuple(group.to(device) for group in groups)
    from ftcli.models.shared_prompts import shared_layout

    each = batch["shared"].tolist()
    return shared_layout(lengths[: len(each)], lengths[len(each) :], each, spare, device)


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
    documents: tuple[Group, ...] | Layout | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within documents: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].

    Raises:
        RuntimeError: the batch is packed but the model did not hand the layout to its layers.
    """
    if documents is None:
        _refuse_lost_layout(attention_mask, query)
        if softcap is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
            )
        return _softcapped(query, key, value, attention_mask, scaling, softcap, key.shape[1]), None
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    how = Settings(causal, dropout, scaling, softcap, sliding_window)
    heads = query.shape[1] // key.shape[1]
    states = [x[0].transpose(0, 1) for x in (query, repeat_kv(key, heads), repeat_kv(value, heads))]
    if query.device.type == "cpu":
        # Half precision backward of the CPU kernel was measured 3 times slower than float32.
        states = [x.float() for x in states]
    with torch.autocast(query.device.type, enabled=False):
        if isinstance(documents, tuple):
            out = within(states, documents, how)
        else:
            out = documents.within(states, how)
    return out.unsqueeze(0).to(query.dtype), None


def within(states: Sequence[Tensor], documents: Sequence[Group], how: Settings) -> Tensor:
    """Queries, keys and values [T, H, D] -> attention of each document to itself [T, H, D]."""
    pieces = []
    # `split`: the backward of slices would fill and add a full row of zeros for each of them
    parts = zip(*(x.split([group.tokens for group in documents]) for x in states), strict=True)
    for group, part in zip(documents, parts, strict=True):
        q, k, v = (unpack(x, group) for x in part)
        mask = _window(group.length, how.window, q.device) if how.causal else None
        if not how.causal and group.real is not None:
            mask = _keys(group, q.device)
        pieces.append(pack(attend(q, k, v, mask, how), group))
    return torch.cat(pieces)


def _refuse_lost_layout(mask: Tensor | None, query: Tensor) -> None:
    if mask is not None and mask.shape[-1] == 1 and query.shape[2] > 1:
        raise RuntimeError(
            "this model's layers do not get the documents' layout; set data.packing=none"
        )


def unpack(x: Tensor, group: Group) -> Tensor:
    """Tokens of a group [t, H, D] -> [n, H, L, D]."""
    if group.real is not None:
        empty = x.new_zeros(group.documents * group.length, *x.shape[1:])
        x = empty.index_copy(0, group.real, x)
    return x.unflatten(0, (group.documents, group.length)).transpose(1, 2)


def pack(x: Tensor, group: Group) -> Tensor:
    """[n, H, L, D] -> tokens of a group [t, H, D]."""
    x = x.transpose(1, 2).flatten(0, 1)
    return x if group.real is None else x.index_select(0, group.real)


def _keys(group: Group, device: torch.device) -> Tensor:
    """Which keys are real [n, 1, 1, L], for models that look both ways."""
    assert group.real is not None
    real = torch.zeros(group.documents * group.length, dtype=torch.bool, device=device)
    return real.index_fill(0, group.real, True).view(group.documents, 1, 1, group.length)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: Settings) -> Tensor:
    """Queries [n, H, L, D], keys and values [n, H, S, D] -> [n, H, L, D]; a mask is all there is of it."""
    if how.softcap is None:
        return scaled_dot_product_attention(
            q, k, v, mask, how.dropout, is_causal=how.causal and mask is None, scale=how.scaling
        )
    if mask is None and how.causal:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    return _softcapped(q, k, v, mask, how.scaling, how.softcap, k.shape[1]).transpose(1, 2)


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
