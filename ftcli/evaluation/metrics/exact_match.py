"""Exact match: the share of predictions that are one of their references, word for word."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.evaluation.metrics import References, Rows, select_with_references


def exact_match(predictions: Sequence[str], references: References, rows: Rows) -> dict[str, float]:
    """Return the percentage of rows whose prediction equals a reference, up to case and whitespace."""
    texts, answers = select_with_references(predictions, references)
    if not texts:
        return {}
    hits = [
        _normalize(text) in {_normalize(choice) for choice in choices}
        for text, choices in zip(texts, answers, strict=True)
    ]
    return {"exact_match": 100 * sum(hits) / len(hits)}


def _normalize(text: str) -> str:
    return " ".join(text.split()).casefold()
