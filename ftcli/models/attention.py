"""Attention that restarts at each document of a packed row, for any transformers model.

Packed batches are one flat row of documents. Their layout (`ftcli.models.attention_layout`) reaches
every layer as the keyword `documents`; each document attends causally to itself alone, by torch's fused
attention, so neither padding nor a T x T mask ever exists. Calls without `documents` (generation,
padded batches) go to transformers' own SDPA, unless the layer needs what that does not support: capped
scores and attention sinks are computed here in both cases. An unknown keyword is refused, so that no
part of a model's attention is left out silently.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import TransformersKwargs

from ftcli.models.attention_kernels import (
    AttentionSettings,
    SharedPromptLayout,
    attend,
    attend_within,
)
from ftcli.models.attention_layout import Group

NAME = "documents"
#: Keywords of a layer that do not change which keys are attended to, or that the layout replaces.
KNOWN = frozenset(TransformersKwargs.__annotations__) | {
    "sliding_window", "use_cache", "cache_position", "return_dict", "token_type_ids",
}  # fmt: skip


def install_document_attention(model: Any) -> None:
    """Give a loaded model this attention, where its class supports named attention functions."""
    if model._can_set_attn_implementation():
        model.library_attention = model.config._attn_implementation
        model.set_attn_implementation(NAME)


def has_document_attention(model: Any) -> bool:
    """Whether `install_document_attention` has given the model this attention, even if `set_attention` has switched it since."""
    return getattr(model, "library_attention", None) is not None


def get_current(model: Any) -> Literal["documents", "library"]:
    """Return which attention a model has now."""
    return "documents" if model.config._attn_implementation == NAME else "library"


def set_attention(model: Any, attention: Literal["documents", "library"]) -> None:
    """Switch the attention of a model with document attention; others have the library's only."""
    if has_document_attention(model):
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
    documents: tuple[Group, ...] | SharedPromptLayout | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within documents: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D].

    Raises:
        NotImplementedError: the layer passes a keyword that this function does not know.
        RuntimeError: the batch is packed but the model did not pass the layout to its layers.
    """
    _refuse_unknown(kwargs)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    settings = AttentionSettings(causal, dropout, scaling, softcap, sinks=s_aux)
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
        settings = replace(settings, causal=causal and query.shape[2] > 1)
        return attend(query, key, value, attention_mask, settings).transpose(1, 2), None
    _refuse_bias(position_bias)
    window, chunk = _read_locality(module, kwargs)
    settings = replace(settings, window=window, chunk=chunk)
    heads = query.shape[1] // key.shape[1]
    states = [x[0].transpose(0, 1) for x in (query, repeat_kv(key, heads), repeat_kv(value, heads))]
    if query.device.type == "cpu":
        # Half precision backward of the CPU kernel was measured 3 times slower than float32.
        states = [x.float() for x in states]
    with torch.autocast(query.device.type, enabled=False):
        if isinstance(documents, tuple):
            out = attend_within(states, documents, settings)
        else:
            out = documents.attend(states, settings)
    return out.unsqueeze(0).to(query.dtype), None


def _refuse_unknown(kwargs: dict[str, Any]) -> None:
    """Refuse keywords that may change what a layer attends to."""
    unknown = {name for name, value in kwargs.items() if value is not None} - KNOWN
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(sorted(unknown))} is not known here")


def _refuse_bias(bias: Tensor | None) -> None:
    if bias is not None:
        raise NotImplementedError("attention with position_bias is known for padded rows only")


def _read_locality(module: nn.Module, kwargs: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return window and chunk of a layer, from its keywords or, where the mask has them, its config."""
    config: Any = getattr(module, "config", None)
    kinds, index = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    kind = kinds[index] if kinds and index is not None and index < len(kinds) else None
    if kind == "chunked_attention":
        return None, getattr(config, "attention_chunk_size", None)
    if "sliding_window" in kwargs:
        return kwargs["sliding_window"], None
    full = kind not in (None, "sliding_attention")
    return None if full else getattr(config, "sliding_window", None), None


def _refuse_lost_layout(mask: Tensor | None, query: Tensor) -> None:
    if mask is not None and mask.shape[-1] == 1 and query.shape[2] > 1:
        raise RuntimeError(
            "this model's layers do not get the documents' layout; set data.packing=none"
        )


AttentionInterface.register(NAME, documents_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
