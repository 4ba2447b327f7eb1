"""Penalty on repeated n-grams."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from ftcli.rewards import Answer


def repetition(
    answers: Sequence[Answer],
    n: int = 3,
    most: float = -1.0,
    unit: Literal["tokens", "words"] = "tokens",
) -> list[float]:
    """Return `most` times the share of n-grams that occurred before; 0 for answers shorter than n.

    Args:
        n: length of an n-gram.
        most: penalty at a share of 1.
        unit: tokens, or lower-cased words.

    Source: Yeo et al. 2025, arXiv 2502.03373.
    """
    return [most * repeated(_units(answer, unit), n) for answer in answers]


def repeated(units: Sequence[Hashable], n: int) -> float:
    """Return 1 - distinct n-grams / n-grams, in [0, 1]."""
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _units(answer: Answer, unit: str) -> Sequence[Hashable]:
    return answer.text.lower().split() if unit == "words" else answer.ids
