"""Measure how a model can generate several answers at a time, at its first generation.

A batch of prompts that are padded on the left must give each the logits that the library's own
forward gives for prompt and answer alone, without a cache. Recurrent layers that take the padding for
text, and caches that lose part of it, fail this test; such models generate answers to prompts of one
length together, or one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.models import attention
from ftcli.models.probing import (
    choose_row_length,
    compute_relative_error,
    draw_rows,
    preserve_state,
    reraise_if_out_of_memory,
    scale_error_by_sensitivity,
    summarize_error,
)

NEW = 3  # tokens that are generated: one from the prompt, the others from the cache
LONG = 256  # tokens of the longest prompt that is tried; longer windows are not reached


@dataclass(frozen=True)
class Decoding:
    """A way to generate answers.

    Attributes:
        batch: padded on the left, prompts of equal length only, or single ones.
        cache: whether keys and values of earlier tokens are cached.
    """

    batch: Literal["padded", "equal", "single"] = "padded"
    cache: bool = True

    def group_prompts(self, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
        """Yield the indices of prompts that are answered together, longest first.

        Args:
            lengths: tokens of each prompt; equal ones keep their order.
            size: prompts a batch at most.
        """
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        batch: list[int] = []
        for index in order:
            differs = self.batch == "equal" and batch and lengths[batch[0]] != lengths[index]
            if len(batch) == (1 if self.batch == "single" else size) or differs:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


WAYS = (Decoding(), Decoding("equal"), Decoding("single"), Decoding("single", cache=False))
_known: WeakKeyDictionary[Any, Decoding] = WeakKeyDictionary()


def find_decoding(model: Any) -> Decoding:
    """Find the fastest right way for a model in eval mode; it is measured once.

    Raises:
        UserError: in no way does generated text follow the model's own probabilities.
    """
    if model not in _known:
        _known[model] = _measure_decoding(model)
    return _known[model]


@torch.no_grad()
def _measure_decoding(model: Any) -> Decoding:
    device = next(model.parameters()).device
    longer = choose_row_length(model, LONG)
    long, equal, short = draw_rows(model, (longer, longer, max(2, longer // 5)))
    failure = ""
    with preserve_state(model):
        for way in WAYS:
            prompts = {"padded": [long, short], "equal": [long, equal], "single": [long]}
            try:
                gap = _measure_generation_error(
                    model, [row.to(device) for row in prompts[way.batch]], way.cache
                )
            except Exception as error:  # any error of a library that does not know such input
                reraise_if_out_of_memory(error)
                failure = summarize_error(error)
                continue
            if gap <= 1:
                return way
            failure = "the logits are not those of a forward pass over the same text"
    raise UserError(
        f"what this model generates does not follow its own probabilities: {failure}.",
        where="model",
        fix="eval=loss, which generates no text",
    )


def _measure_generation_error(model: Any, prompts: list[Tensor], cache: bool) -> float:
    """Return the error of generated tokens' log-probabilities, relative to what is allowed (1)."""
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in prompts])
    real = torch.stack([torch.arange(width) >= width - len(row) for row in prompts]).long()
    config = GenerationConfig(
        max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, num_beams=1, pad_token_id=0,
        use_cache=cache, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    output = model.generate(
        input_ids=ids, attention_mask=real.to(ids.device), generation_config=config
    )
    written = output.sequences[:, width:]
    scores = torch.stack(output.logits, 1).float().log_softmax(-1)
    generated = scores.gather(2, written[..., None])[..., 0]
    rows = [torch.cat(pair) for pair in zip(prompts, written, strict=True)]
    error = compute_relative_error(model, generated.flatten().cpu(), score_alone(model, rows).cpu())
    return scale_error_by_sensitivity(model, error, lambda: score_alone(model, rows))


def score_alone(model: Any, rows: Sequence[Tensor]) -> Tensor:
    """Return the log-probabilities of the last `NEW` tokens of rows, by the library's attention."""
    before = attention.get_current(model)
    attention.set_attention(model, "library")
    try:
        logits = [
            model(input_ids=row[None], use_cache=False).logits[0, -NEW - 1 : -1] for row in rows
        ]
    finally:
        attention.set_attention(model, before)
    pairs = zip(logits, rows, strict=True)
    return torch.cat(
        [part.float().log_softmax(-1).gather(1, row[-NEW:, None])[:, 0] for part, row in pairs]
    )
