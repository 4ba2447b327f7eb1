"""Final number: whether a worked answer ends in the right number, as GSM8K is scored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from ftcli.evaluation.metrics import References, Rows, select_with_references

MARKED = re.compile(r"####\s*\$?\s*(-?[\d,]*\.?\d+)")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def final_number(
    predictions: Sequence[str], references: References, rows: Rows
) -> dict[str, float]:
    """Return the percentage of predictions whose final number equals a reference's (Cobbe et al. 2021).

    The final number follows `####`; of a text without that mark it is the last number. Rows
    whose references contain no number are left out.
    """
    wanted = [
        (text, {n for n in map(read, choices) if n is not None})
        for text, choices in zip(*select_with_references(predictions, references), strict=True)
    ]
    correct = [read(text) in numbers for text, numbers in wanted if numbers]
    return {"final_number": 100 * sum(correct) / len(correct)} if correct else {}


def read(text: str) -> Decimal | None:
    """Return the number after the first `####`, else the last number of the text, else None."""
    marked = MARKED.search(text)
    numbers = [marked.group(1)] if marked else NUMBER.findall(text)
    if not numbers:
        return None
    try:
        return Decimal(numbers[-1].replace(",", ""))
    except InvalidOperation:
        return None
