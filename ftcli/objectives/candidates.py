"""Scores of candidate words at the position that predicts a row's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.data.tokenization import LEARN_ALL, Segment, encode_segments
from ftcli.objectives.causal_lm import compute_hidden_and_head, find_supervised

if TYPE_CHECKING:
    from ftcli.core.run import Run

MOST_LABELS = 100  # with more different completions a data set is text, not classification


class CandidateScores(NamedTuple):
    """Scores of C candidate words in n rows.

    Attributes:
        logits: [n, C] float32, of each candidate word.
        targets: [n] int64, index of the candidate that is the answer.
        hidden, head: as in `Losses`.
    """

    logits: Tensor
    targets: Tensor
    hidden: Tensor
    head: Callable[[Tensor], Tensor]


def token_ids(words: Sequence[str] | None, run: Run) -> Tensor:
    """Return [C] int64: the first token of each word; words=None takes the training rows' completions.

    Raises:
        UserError: fewer than two words, two words with the same first token, or completions that are not
            labels.
    """
    words = list(words) if words is not None else _completions(run)
    if len(words) < 2:
        raise UserError(
            f"{words}: at least two label words are needed.",
            "objective.words",
            "[' great', ' terrible']",
        )
    rows = encode_segments([[Segment(word, LEARN_ALL)] for word in words], run.tokenizer)
    ids = [int(tokens[0]) for tokens, _ in rows]
    for index, token in enumerate(ids):
        if token in ids[:index]:
            same = words[ids.index(token)], words[index]
            raise UserError(
                f"{same[0]!r} and {same[1]!r} begin with the same token, and only the first token is scored.",
                where="objective.words",
                fix="choose words with different first tokens",
            )
    return torch.tensor(ids)


def score_candidates(
    model: nn.Module, batch: dict[str, Any], candidates: Tensor
) -> CandidateScores:
    """Return the candidates' logits at the position that predicts each row's answer.

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
    hidden, head = compute_hidden_and_head(model, batch, device)
    hidden = hidden.flatten(0, 1)[where.to(device)]
    logits = head(hidden)[:, candidates.to(device)].float()
    return CandidateScores(logits, matches.int().argmax(1).to(device), hidden, head)


def answer_positions(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return flat positions [n] that predict the first supervised token of each row, and the tokens [n]."""
    predicting_positions, labels, sequence_index = find_supervised(batch)
    first = torch.ones_like(sequence_index, dtype=torch.bool)
    first[1:] = sequence_index[1:] != sequence_index[:-1]
    return predicting_positions[first], labels[first]


def _completions(run: Run) -> list[str]:
    completions: dict[str, None] = {}
    for example in run.data.examples("train"):
        if "completion" not in example:
            break
        completions[str(example["completion"])] = None
        if len(completions) > MOST_LABELS:
            break
    if not 2 <= len(completions) <= MOST_LABELS:
        raise UserError(
            f"the completions of the training rows are not labels: {len(completions)} different ones.",
            where="objective.words",
            fix="set it to the label words, or use data whose completions are a few words",
        )
    return sorted(completions)
