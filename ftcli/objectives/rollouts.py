"""Micro-batches of prompts with the answers that a model has written to them.

Three layouts: rows padded on the right; documents end to end, each a prompt with one answer; and
documents that share their prompt, which then stands there once for all its answers. Where each
token of an answer is predicted is kept as a flat position, so that the loss knows no layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.data.tokens import IGNORED
from ftcli.models.decoding import read
from ftcli.objectives.generated import documents
from ftcli.objectives.sampling import SampledAnswer

Layout = Literal["padded", "packed", "shared"]
Batch = dict[str, Any]


class Prompt(NamedTuple):
    """A prompt of a batch: its tokens, the completion of its row as text, the number of the row."""

    ids: list[int]
    reference: str
    row: int


def read_prompts(batch: Batch, tokenizer: Any, stops: Sequence[int]) -> list[Prompt]:
    """What stands before the first learned token of each document.

    Raises:
        UserError: no document has one.
    """
    found = []
    for (ids, labels), row in zip(documents(batch), batch["rows"], strict=True):
        learned = (labels != IGNORED).nonzero().flatten()
        if len(learned):
            reference = read(ids[learned].tolist(), stops, tokenizer)
            found.append(Prompt(ids[: int(learned[0])].tolist(), reference, row))
    if not found:
        raise UserError(
            "no document of the batch has a prompt and an answer.",
            where="data.max_length",
            fix="a greater data.max_length, where answers were cut off",
        )
    return found


def build_micro_batch(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[SampledAnswer]],
    layout: Layout,
    pad: int = 0,
    keep_truncated: bool = True,
) -> Batch:
    """Prompts, each with as many answers as all others, as one micro-batch.

    Args:
        keep_truncated: whether answers that were cut are learned from; they count as answers anyhow.

    Returns:
        input_ids, position_ids int64, lengths or attention_mask, as `ftcli.data.loader`; with them
        where [n] the flat position that predicts each token of the answers, targets [n] the token,
        owner [n] its answer; answers, their number; group, answers a prompt; rows; count = n.
        `shared` [prompts] says how many answers each prompt has, where it stands there once.
    """
    asked_ids = [p.ids for p in prompts]
    own = [[one.ids for one in some] for some in answers]
    learned = [keep_truncated or not one.truncated for some in answers for one in some]
    tensors, where = _LAYOUTS[layout](asked_ids, own, pad)
    flat = [torch.tensor(ids) for some in own for ids in some]
    kept = [i for i, yes in enumerate(learned) if yes]
    return tensors | {
        "where": _concatenate([where[i] for i in kept]),
        "targets": _concatenate([flat[i] for i in kept]),
        "owner": _concatenate([torch.full_like(flat[i], i) for i in kept]),
        "answers": len(flat),
        "group": len(answers[0]),
        "rows": [p.row for p in prompts],
        "count": sum(len(flat[i]) for i in kept),
    }


Ids = Sequence[Sequence[int]]


def _lay_out_padded(prompts: Ids, answers: Sequence[Ids], pad: int) -> tuple[Batch, list[Tensor]]:
    rows = [[*p, *a] for p, some in zip(prompts, answers, strict=True) for a in some]
    width = max(map(len, rows))
    starts = [len(p) for p, some in zip(prompts, answers, strict=True) for _ in some]
    where = [
        torch.arange(start - 1, len(row) - 1) + i * width
        for i, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]
    there = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    tensors = {
        "input_ids": torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows]),
        "position_ids": torch.where(there, torch.arange(width), 0),
        "attention_mask": there.long(),
    }
    return tensors, where


def _lay_out_packed(prompts: Ids, answers: Sequence[Ids], _: int) -> tuple[Batch, list[Tensor]]:
    rows = [[*p, *a] for p, some in zip(prompts, answers, strict=True) for a in some]
    starts = [len(p) for p, some in zip(prompts, answers, strict=True) for _ in some]
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
    """All prompts, then all answers; an answer's positions go on where its prompt ends."""
    parts = [*prompts, *(a for some in answers for a in some)]
    lengths = torch.tensor([len(part) for part in parts])
    begins = lengths.cumsum(0) - lengths
    places = [torch.arange(len(p)) for p in prompts]
    where, part = [], len(prompts)
    for index, some in enumerate(answers):
        last = begins[index] + lengths[index] - 1
        for answer in some:
            own = torch.arange(len(answer) - 1) + begins[part]
            where.append(torch.cat([last[None], own]))
            places.append(torch.arange(len(answer)) + lengths[index])
            part += 1
    tensors = {
        "input_ids": _concatenate([torch.tensor(part) for part in parts])[None],
        "position_ids": _concatenate(places)[None],
        "lengths": lengths.int(),
        "shared": torch.tensor([len(some) for some in answers]),
    }
    return tensors, where


_LAYOUTS = {"padded": _lay_out_padded, "packed": _lay_out_packed, "shared": _lay_out_shared}


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if tensors else torch.empty(0, dtype=torch.long)
