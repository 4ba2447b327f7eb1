"""F1 of words between an answer and its reference, as SQuAD scores it (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from ftcli.evaluation.metrics import References, Rows, select_with_references

ARTICLES = re.compile(r"\b(a|an|the)\b")
MARKS = str.maketrans("", "", string.punctuation)


def f1(predictions: Sequence[str], references: References, rows: Rows) -> dict[str, float]:
    """Return the mean over rows of the best reference's F1, times 100, up to case, articles and punctuation."""
    texts, answers = select_with_references(predictions, references)
    if not texts:
        return {}
    best = [
        max(_overlap(_words(text), _words(choice)) for choice in choices)
        for text, choices in zip(texts, answers, strict=True)
    ]
    return {"f1": 100 * sum(best) / len(best)}


def _words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(MARKS)).split()


def _overlap(words: list[str], wanted: list[str]) -> float:
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))
