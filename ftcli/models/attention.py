"""Attention that restarts at each document of a packed row, for any transformers model.

Packed batches are one flat row of documents. The loader's document lengths travel to every layer as
the keyword `documents`; each document attends causally to itself alone, by torch's fused
attention, so neither padding nor a T x T mask ever exists. Calls without `documents` (generation,
padded batches) go to transformers' own SDPA, unless the layer asks for what that does not do: capped
scores and attention sinks are computed here in both cases. A keyword that this function does not
know is refused, so that no part of a model's attention is lost in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import TransformersKwargs

NAME = "documents"
#: Rows are a multiple of this many tokens long. Kernels are made (and kept) for each new shape: in
#: bf16 on a CPU, free lengths were measured to cost 10 % of the time and, in 60 steps, 500 MB.
ALIGNMENT = 64
#: Keywords of a layer that do not change who attends to whom, or that the layout says instead.
KNOWN = frozenset(TransformersKwargs.__annotations__) | {
    "sliding_window", "use_cache", "cache_position", "return_dict", "token_type_ids",
}  # fmt: skip


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
    reset = batch.get("reading") == "reset"
    return {
        "input_ids": pad(batch["input_ids"], (0, spare)),
        "position_ids": pad(batch["position_ids"], (0, spare)),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "documents": _documents(batch, lengths, spare, device),
        **(_bounds([*lengths, spare] if spare else lengths, device) if reset else {}),
    }


def _bounds(lengths: Sequence[int], device: torch.device | str) -> dict[str, Any]:
    """Numbers and bounds of documents by the keywords that recurrent layers of the library know."""
    sizes = torch.tensor(lengths, device=device)
    bounds = pad(sizes.cumsum(0), (1, 0)).int()
    return {
        "seq_idx": torch.repeat_interleave(sizes)[None].int(),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
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


def adopt(model: Any) -> None:
    """Give a model that the library has loaded this attention, where its layers ask for one by name."""
    if model._can_set_attn_implementation():
        model.library_attention = model.config._attn_implementation
        model.set_attn_implementation(NAME)


def in_use(model: Any) -> bool:
    """Whether `adopt` has given the model this attention, now or before `use` took it away."""
    return getattr(model, "library_attention", None) is not None


def current(model: Any) -> Literal["documents", "library"]:
    """Which attention a model has now."""
    return "documents" if model.config._attn_implementation == NAME else "library"


def use(model: Any, attention: Literal["documents", "library"]) -> None:
    """Switch a model that was adopted; others have the library's attention only."""
    if in_use(model):
        model.set_attn_implementation(NAME if attention == "documents" else model.library_attention)


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
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within documents: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].

    Raises:
        NotImplementedError: the layer asks for something that this function does not know.
        RuntimeError: the batch is packed but the model did not hand the layout to its layers.
    """
    _refuse_unknown(kwargs)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    how = Settings(causal, dropout, scaling, softcap, sinks=s_aux)
    if documents is None:
        _refuse_lost_layout(attention_mask, query)
        if softcap is None and s_aux is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal,
                position_bias, **kwargs,
            )  # fmt: skip
        _refuse_bias(position_bias)
        heads = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, heads), repeat_kv(value, heads)
        how = replace(how, causal=causal and query.shape[2] > 1)
        return attend(query, key, value, attention_mask, how).transpose(1, 2), None
    _refuse_bias(position_bias)
    window, chunk = _local(module, kwargs)
    how = replace(how, window=window, chunk=chunk)
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


def _refuse_unknown(kwargs: dict[str, Any]) -> None:
    """Raise where a layer hands over something that may change what its attention is."""
    unknown = {name for name, value in kwargs.items() if value is not None} - KNOWN
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(sorted(unknown))} is not known here")


def _refuse_bias(bias: Tensor | None) -> None:
    if bias is not None:
        raise NotImplementedError("attention with position_bias is known for padded rows only")


def _local(module: nn.Module, kwargs: dict[str, Any]) -> tuple[int | None, int | None]:
    """Window and chunk of a layer; where it leaves them to the mask, its configuration has them."""
    config: Any = getattr(module, "config", None)
    kinds, index = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    kind = kinds[index] if kinds and index is not None and index < len(kinds) else None
    if kind == "chunked_attention":
        return None, getattr(config, "attention_chunk_size", None)
    if "sliding_window" in kwargs:
        return kwargs["sliding_window"], None
    full = kind not in (None, "sliding_attention")
    return None if full else getattr(config, "sliding_window", None), None


def within(states: Sequence[Tensor], documents: Sequence[Group], how: Settings) -> Tensor:
    """Queries, keys and values [T, H, D] -> attention of each document to itself [T, H, D]."""
    pieces = []
    # `split`: the backward of slices would fill and add a full row of zeros for each of them
    parts = zip(*(x.split([group.tokens for group in documents]) for x in states), strict=True)
    for group, part in zip(documents, parts, strict=True):
        q, k, v = (unpack(x, group) for x in part)
        mask = _restriction(group.length, how, q.device) if how.causal else None
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
    if how.softcap is not None:
        return _capped(q, k, v, mask, how)
    if how.sinks is not None:
        return _with_sinks(q, k, v, mask, how)
    return scaled_dot_product_attention(
        q, k, v, mask, how.dropout, is_causal=how.causal and mask is None, scale=how.scaling
    )


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: Settings) -> Tensor:
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


def _with_sinks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: Settings) -> Tensor:
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


def _restriction(length: int, how: Settings, device: torch.device) -> Tensor | None:
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


AttentionInterface.register(NAME, documents_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
