"""Reward of answers whose final number is right."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.evaluation.metrics.final_number import read
from ftcli.rewards import Answer, missing_gold_error


def final_number(answers: Sequence[Answer], column: str | None = None) -> list[float]:
    """Return 1 where the number after the first `####` (else the last number) equals the gold one, else 0.

    Args:
        column: column of the gold number; None: the completion.

    Raises:
        UserError: a gold answer contains no number.
    """
    return [_score(answer, column) for answer in answers]


def _score(answer: Answer, column: str | None) -> float:
    wanted = read(answer.gold(column))
    if wanted is None:
        raise missing_gold_error("number", answer, column)
    return float(read(answer.text) == wanted)
