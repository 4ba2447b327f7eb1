"""Whether rows may join a batch that is being generated, measured at a model's first batch.

Caches of full attention can be padded and stacked. Windows, recurrent states and soft prompts keep
something else in them, and side networks may remember on their own, so it is tried: a row joins
another that is under way, and both must get the logits of a forward pass over their text alone.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from ftcli.models.decoding_check import LONG, NEW, find_decoding, score_alone
from ftcli.models.probing import (
    choose_row_length,
    compute_relative_error,
    draw_rows,
    preserve_state,
    reraise_if_out_of_memory,
    scale_error_by_sensitivity,
)
from ftcli.serving.api.batch import Batch, extend_batch

_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def can_join(model: Any) -> bool:
    """Whether rows may join a running batch of a model in eval mode; it is measured once."""
    if model not in _known:
        way = find_decoding(model)
        _known[model] = way.batch == "padded" and way.cache and _measure_joining(model)
    return _known[model]


@torch.no_grad()
def _measure_joining(model: Any) -> bool:
    longer = choose_row_length(model, LONG)
    long, short = draw_rows(model, (longer - 2 * NEW, max(2, longer // 5)))
    with preserve_state(model):
        try:
            error = _measure_joining_error(model, long, short)
        except Exception as failure:  # any error of a library that does not know such a cache
            reraise_if_out_of_memory(failure)
            return False
    return error is not None and error <= 1


def _measure_joining_error(model: Any, long: Tensor, short: Tensor) -> float | None:
    """Return the error of log-probabilities after joining, relative to what is allowed (1).

    None where the cache does not hold one key and value a token.
    """
    device = next(model.parameters()).device
    first, _ = _extend(model, _begin(long.to(device)), NEW)
    second, _ = _extend(model, _begin(short.to(device)), 1)
    if not (_is_plain(first) and _is_plain(second)):
        return None
    joined, logits = _extend(model, first.join(second), NEW)
    written = joined.ids[:, -NEW:]
    generated = logits.float().log_softmax(-1).gather(2, written[..., None])[..., 0]
    texts = [ids[mask.bool()] for ids, mask in zip(joined.ids, joined.mask, strict=True)]
    error = compute_relative_error(
        model, generated.flatten().cpu(), score_alone(model, texts).cpu()
    )
    return scale_error_by_sensitivity(model, error, lambda: score_alone(model, texts))


def _begin(ids: Tensor) -> Batch:
    return Batch([], ids[None], torch.ones_like(ids)[None])


def _extend(model: Any, batch: Batch, count: int) -> tuple[Batch, Tensor]:
    """Return the batch with `count` more tokens, and their logits [B, count, V]."""
    config = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, num_beams=1, pad_token_id=0,
        use_cache=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    extended, output = extend_batch(model, batch, config)
    return extended, torch.stack(output.logits, 1)


def _is_plain(batch: Batch) -> bool:
    cache = batch.cache
    layers = getattr(cache, "layers", ())
    plain = type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in layers)
    return plain and cache.get_seq_length() == batch.ids.shape[1] - 1
