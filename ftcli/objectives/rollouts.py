"""Micro-batches of prompts with sampled answers.

Three layouts: rows padded on the right; concatenated documents of a prompt with one answer each; and
documents that share their prompt, which occurs once for all its answers. The position that predicts each
token of an answer is stored as a flat index, so that the loss does not depend on the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.data.tokens import IGNORED
from ftcli.models.decoding import decode_answer
from ftcli.objectives.generated import documents
from ftcli.objectives.sampling import SampledAnswer

Layout = Literal["padded", "packed", "shared"]
Batch = dict[str, Any]


class Prompt(NamedTuple):
    """A prompt of a batch: its tokens, the row's completion as text, the number of the row."""

    ids: list[int]
    reference: str
    row: int


def read_prompts(batch: Batch, tokenizer: Any, stops: Sequence[int]) -> list[Prompt]:
    """Return the tokens before the first supervised token of each document as prompts.

    Raises:
        UserError: no document has a supervised token.
    """
    prompts = []
    for (ids, labels), row in zip(documents(batch), batch["indices"], strict=True):
        learned = (labels != IGNORED).nonzero().flatten()
        if len(learned):
            reference = decode_answer(ids[learned].tolist(), stops, tokenizer)
            prompts.append(Prompt(ids[: int(learned[0])].tolist(), reference, row))
    if not prompts:
        raise UserError(
            "no document of the batch has a prompt and an answer.",
            where="data.max_length",
            fix="increase data.max_length, if it cuts the answers off",
        )
    return prompts


def build_micro_batch(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[SampledAnswer]],
    layout: Layout,
    pad: int = 0,
    keep_truncated: bool = True,
) -> Batch:
    """Return prompts and their answers, equally many for each prompt, as one micro-batch.

    Args:
        layout: padded, packed or shared; see above.
        pad: token id of padding.
        keep_truncated: whether answers that were cut are trained on; they count as answers in any case.

    Returns:
        input_ids, position_ids int64, lengths or attention_mask, as `ftcli.data.loader`; with them
        where [n] the flat position that predicts each token of the answers, targets [n] the token,
        owner [n] its answer; answers, their number; group, answers a prompt; rows; num_supervised = n.
        `shared` [prompts] says how many answers each prompt has, where it occurs once.
    """
    prompt_ids = [p.ids for p in prompts]
    answer_ids = [[answer.ids for answer in group] for group in answers]
    trained = [keep_truncated or not answer.truncated for group in answers for answer in group]
    tensors, where = _LAYOUTS[layout](prompt_ids, answer_ids, pad)
    flat = [torch.tensor(ids) for group in answer_ids for ids in group]
    kept = [i for i, is_trained in enumerate(trained) if is_trained]
    return tensors | {
        "where": _concatenate([where[i] for i in kept]),
        "targets": _concatenate([flat[i] for i in kept]),
        "owner": _concatenate([torch.full_like(flat[i], i) for i in kept]),
        "answers": len(flat),
        "group": len(answers[0]),
        "indices": [p.row for p in prompts],
        "num_supervised": sum(len(flat[i]) for i in kept),
    }


Ids = Sequence[Sequence[int]]


def _lay_out_padded(prompts: Ids, answers: Sequence[Ids], pad: int) -> tuple[Batch, list[Tensor]]:
    rows = [[*p, *a] for p, group in zip(prompts, answers, strict=True) for a in group]
    width = max(map(len, rows))
    starts = [len(p) for p, group in zip(prompts, answers, strict=True) for _ in group]
    where = [
        torch.arange(start - 1, len(row) - 1) + i * width
        for i, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]
    is_token = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    tensors = {
        "input_ids": torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows]),
        "position_ids": torch.where(is_token, torch.arange(width), 0),
        "attention_mask": is_token.long(),
    }
    return tensors, where


def _lay_out_packed(prompts: Ids, answers: Sequence[Ids], _: int) -> tuple[Batch, list[Tensor]]:
    rows = [[*p, *a] for p, group in zip(prompts, answers, strict=True) for a in group]
    starts = [len(p) for p, group in zip(prompts, answers, strict=True) for _ in group]
    where, offset = [], 0
    for row, start in zip(rows, starts, strict=True):
        where.append(torch.arange(offset + start - 1, offset + len(row) - 1))
        offset += len(row)
    tensors = {
        "input_ids": _concatenate([torch.tensor(row) for row in rows])[None],
        "position_ids": _concatenate([torch.arange(len(row)) for row in rows])[None],
        "lengths": torch.tensor([len(row) for row in rows], dtype=torch.int32),
    }
    return tensors, where


def _lay_out_shared(prompts: Ids, answers: Sequence[Ids], _: int) -> tuple[Batch, list[Tensor]]:
    """Concatenate all prompts, then all answers; an answer's position ids continue those of its prompt."""
    parts = [*prompts, *(a for group in answers for a in group)]
    lengths = torch.tensor([len(part) for part in parts])
    begins = lengths.cumsum(0) - lengths
    places = [torch.arange(len(p)) for p in prompts]
    where, part = [], len(prompts)
    for index, group in enumerate(answers):
        last = begins[index] + lengths[index] - 1
        for answer in group:
            inside = torch.arange(len(answer) - 1) + begins[part]
            where.append(torch.cat([last[None], inside]))
            places.append(torch.arange(len(answer)) + lengths[index])
            part += 1
    tensors = {
        "input_ids": _concatenate([torch.tensor(part) for part in parts])[None],
        "position_ids": _concatenate(places)[None],
        "lengths": lengths.int(),
        "shared": torch.tensor([len(group) for group in answers]),
    }
    return tensors, where


_LAYOUTS = {"padded": _lay_out_padded, "packed": _lay_out_packed, "shared": _lay_out_shared}


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if tensors else torch.empty(0, dtype=torch.long)
