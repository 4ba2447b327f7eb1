"""chrF++: F-score of character 1-6-grams and word 1-2-grams (Popović 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.evaluation.metrics import References, Rows, select_with_references
from ftcli.evaluation.metrics.bleu import streams


def chrf(predictions: Sequence[str], references: References, rows: Rows) -> dict[str, float]:
    """Return corpus chrF++ by sacrebleu; of several references the best one of each row counts."""
    import sacrebleu

    texts, answers = select_with_references(predictions, references)
    if not texts:
        return {}
    return {"chrf": sacrebleu.corpus_chrf(texts, streams(answers), word_order=2).score}
