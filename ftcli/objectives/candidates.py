"""Rows whose answer is one of a few words, judged at the position that predicts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.data.tokenization import LEARN_ALL, Segment, encode_segments
from ftcli.objectives.causal_lm import final_hidden, find_supervised

MOST = 100  # different completions that still are labels rather than text


class CandidateScores(NamedTuple):
    """Candidates of n rows.

    Attributes:
        logits: [n, C] float32, of each candidate word.
        targets: [n] int64, which of them is the answer.
        hidden, head: as in `Losses`.
    """

    logits: Tensor
    targets: Tensor
    hidden: Tensor
    head: Callable[[Tensor], Tensor]


def token_ids(words: Sequence[str] | None, run: Any) -> Tensor:
    """[C] int64: the first token of each word, or of each completion of the training rows.

    Raises:
        UserError: fewer than two words, words that begin alike, or rows that are no classification.
    """
    words = list(words) if words is not None else _completions(run)
    if len(words) < 2:
        raise UserError(
            f"{words}: two label words are the least.", "objective.words", "[' great', ' terrible']"
        )
    rows = encode_segments([[Segment(word, LEARN_ALL)] for word in words], run.tokenizer)
    ids = [int(found[0]) for found, _ in rows]
    for index, token in enumerate(ids):
        if token in ids[:index]:
            alike = words[ids.index(token)], words[index]
            raise UserError(
                f"{alike[0]!r} and {alike[1]!r} begin with the same token, and only the first is judged.",
                where="objective.words",
                fix="words that the tokenizer begins differently",
            )
    return torch.tensor(ids)


def score_candidates(
    model: nn.Module, batch: dict[str, Any], candidates: Tensor
) -> CandidateScores:
    """Logits of the candidates where each row's answer begins.

    Raises:
        UserError: a row's answer is not among the candidates.
    """
    where, labels = answer_positions(batch)
    matches = labels[:, None] == candidates
    if not matches.any(1).all():
        raise UserError(
            "a row's answer begins with none of the label words.",
            where="objective.words",
            fix="list every word that completes a row",
        )
    device = next(model.parameters()).device
    hidden, head = final_hidden(model, batch, device)
    hidden = hidden.flatten(0, 1)[where.to(device)]
    logits = head(hidden)[:, candidates.to(device)].float()
    return CandidateScores(logits, matches.int().argmax(1).to(device), hidden, head)


def answer_positions(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Flat positions [n] that predict the first learned token of each row, and that token [n]."""
    where, labels, sequence = find_supervised(batch)
    first = torch.ones_like(sequence, dtype=torch.bool)
    first[1:] = sequence[1:] != sequence[:-1]
    return where[first], labels[first]


def _completions(run: Any) -> list[str]:
    found: dict[str, None] = {}
    for example in run.data.examples("train"):
        if "completion" not in example:
            break
        found[str(example["completion"])] = None
        if len(found) > MOST:
            break
    if not 2 <= len(found) <= MOST:
        raise UserError(
            f"the completions of the training rows are no labels: {len(found)} different ones seen.",
            where="objective.words",
            fix="set it to the label words, or take data whose completion is one of a few words",
        )
    return sorted(found)
