"""Whether an answer ends in the right figure."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.evaluation.metrics.final_number import read
from ftcli.rewards import Answer, missing_gold_error


def final_number(answers: Sequence[Answer], column: str | None = None) -> list[float]:
    """1 where the number behind the first `####` (else the last number) equals the gold one, else 0.

    Args:
        column: of the row that holds the gold number; the completion when left out.

    Raises:
        UserError: a gold answer holds no number.
    """
    return [_score(answer, column) for answer in answers]


def _score(answer: Answer, column: str | None) -> float:
    wanted = read(answer.gold(column))
    if wanted is None:
        raise missing_gold_error("number", answer, column)
    return float(read(answer.text) == wanted)
