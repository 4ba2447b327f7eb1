"""Sampling of several answers to each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ftcli.core.ranks import largest_over_ranks
from ftcli.models.decoding import build_generation_config, pad_left
from ftcli.models.decoding_check import find_decoding


class SampledAnswer(NamedTuple):
    """An answer: its tokens with the final stop token, and whether it was cut without one."""

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
    """Return `count` answers to each prompt, in the order of the prompts.

    The model must be in eval mode. Random numbers come from torch's generator. Prompts are taken longest
    first and padded on the left.

    Args:
        prompts: token ids, not padded.
        count: answers a prompt.
        max_new_tokens: longer answers are cut here.
        batch_size: answers that are generated at the same time.
        options: temperature, top_p and top_k (0: all tokens).
    """
    chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | options
    config = build_generation_config(tokenizer, model, max_new_tokens, do_sample=True, **chosen)
    owners = [i for i in range(len(prompts)) for _ in range(count)]
    answers: list[list[SampledAnswer]] = [[] for _ in prompts]
    lengths = [len(prompts[i]) for i in owners]
    batches = list(find_decoding(model).group_prompts(lengths, batch_size))
    for turn in range(largest_over_ranks(model, len(batches))):
        indices = [owners[i] for i in batches[min(turn, len(batches) - 1)]]
        ids, mask = pad_left([prompts[i] for i in indices], config.pad_token_id, model.device)
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        if turn >= len(batches):  # only for the other ranks
            continue
        for index, row in zip(indices, output[:, ids.shape[1] :].tolist(), strict=True):
            answers[index].append(_cut_at_stop(row, config.eos_token_id))
    return answers


def _cut_at_stop(row: list[int], stops: Sequence[int]) -> SampledAnswer:
    """Return a generated row up to its first stop token."""
    end = next((i for i, token in enumerate(row) if token in stops), None)
    return SampledAnswer(row, True) if end is None else SampledAnswer(row[: end + 1], False)
