"""Numeric fidelity: whether a text states the numbers and dates of its reference, to the digit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ftcli.evaluation.metrics import References, Rows, select_with_references

NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")  # 750, 1.4, 03-17, 12:30


def numeric_fidelity(
    predictions: Sequence[str], references: References, rows: Rows
) -> dict[str, float]:
    """Return the F1 of the numbers of a text and its best reference, mean over rows, times 100.

    Both are multisets of numbers as written: a missing, invented or altered number lowers the score.
    `numbers_exact`: percentage of texts with exactly the numbers of a reference.
    References without a number are left out.
    """
    texts, answers = select_with_references(
        predictions, [[r for r in refs if NUMBER.search(r)] for refs in references]
    )
    if not texts:
        return {}
    best = [
        max(_f1(text, choice) for choice in choices)
        for text, choices in zip(texts, answers, strict=True)
    ]
    exact = sum(score == 1 for score in best)
    return {
        "numeric_fidelity": 100 * sum(best) / len(best),
        "numbers_exact": 100 * exact / len(best),
    }


def _f1(text: str, reference: str) -> float:
    stated, wanted = (Counter(NUMBER.findall(t)) for t in (text, reference))
    return 2 * (stated & wanted).total() / (stated.total() + wanted.total())
