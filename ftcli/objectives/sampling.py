"""Answers drawn from a model, several to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ftcli.models.decoding import left_padded, settings
from ftcli.models.decoding_proof import decoding_of


class SampledAnswer(NamedTuple):
    """One answer: its tokens with the one that ended it, and whether it was cut instead."""

    ids: list[int]
    truncated: bool


@torch.no_grad()
def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    count: int,
    max_new_tokens: int,
    batch_size: int = 64,
    **options: Any,
) -> list[list[SampledAnswer]]:
    """`count` answers to each prompt, in the order of the prompts.

    The model is to be in eval mode. Chance comes from torch's generator. Prompts are taken longest
    first and padded on the left, as everywhere where text is made.

    Args:
        prompts: token ids, not padded.
        batch_size: answers that are written at the same time.
        options: temperature, top_p and top_k (0: all tokens).
    """
    chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | options
    config = settings(tokenizer, model, max_new_tokens, do_sample=True, **chosen)
    places = [i for i in range(len(prompts)) for _ in range(count)]
    answers: list[list[SampledAnswer]] = [[] for _ in prompts]
    lengths = [len(prompts[i]) for i in places]
    for batch in decoding_of(model).batches(lengths, batch_size):
        some = [places[i] for i in batch]
        ids, mask = left_padded([prompts[i] for i in some], config.pad_token_id, model.device)
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for index, row in zip(some, output[:, ids.shape[1] :].tolist(), strict=True):
            answers[index].append(_cut_at_stop(row, config.eos_token_id))
    return answers


def _cut_at_stop(row: list[int], stops: Sequence[int]) -> SampledAnswer:
    end = next((i for i, token in enumerate(row) if token in stops), None)
    return SampledAnswer(row, True) if end is None else SampledAnswer(row[: end + 1], False)
