"""ROUGE-L: F-score of the longest common subsequence of words (Lin 2004)."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.evaluation.metrics import References, Rows, select_with_references


def rougeL(predictions: Sequence[str], references: References, rows: Rows) -> dict[str, float]:
    """Return the mean over rows of the best reference's ROUGE-L F1 (rouge-score, no stemming), times 100."""
    from rouge_score.rouge_scorer import RougeScorer

    texts, answers = select_with_references(predictions, references)
    if not texts:
        return {}
    scorer = RougeScorer(["rougeL"])
    best = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in choices)
        for text, choices in zip(texts, answers, strict=True)
    ]
    return {"rougeL": 100 * sum(best) / len(best)}
