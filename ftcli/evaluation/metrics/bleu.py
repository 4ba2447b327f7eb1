"""BLEU of a whole set against any number of references a row (Papineni et al. 2002)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from ftcli.evaluation.metrics import References, Rows, select_with_references


def bleu(predictions: Sequence[str], references: References, rows: Rows) -> dict[str, float]:
    """Return corpus BLEU-4 by sacrebleu (13a tokens, exponential smoothing), all references at once."""
    import sacrebleu

    texts, answers = select_with_references(predictions, references)
    if not texts:
        return {}
    return {"bleu": sacrebleu.corpus_bleu(texts, streams(answers)).score}


def streams(references: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Transpose references to the form of sacrebleu: the k-th reference of every row, None where missing."""
    return [list(stream) for stream in zip_longest(*references)]
