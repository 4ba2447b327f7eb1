"""Reward of answers to multiple-choice questions that name the right option."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftcli.rewards import Answer, missing_gold_error

TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
NAMED = re.compile(
    r"\b(?i:answer(?:\s+is\s*:?|\s*:))[\s(*]*([A-Z])\b"
    r"|\b(?i:answer)\s*(?:[(*]+([A-Z])[)*]|([B-HJ-Z])\b)"
)
LETTER = re.compile(r"^\W*([A-Z])(?:\W|$)")
FIRST = re.compile(r"^\W*(?:([A-Z])\s*(?:[.):,\n*]|$)|([B-HJ-Z])\s)")  # A and I are words too


def option_letter(answers: Sequence[Answer], column: str | None = None) -> list[float]:
    """Return 1 where the letter of the answer equals the gold one, else 0 (also without a letter).

    Args:
        column: column of the gold letter; None: the completion.

    Raises:
        UserError: a gold answer contains no letter.
    """
    return [_score(answer, column) for answer in answers]


def read(text: str) -> str | None:
    """Return the option letter of the first answer in the text; None without one.

    Searched in this order: `<answer>`, `\\boxed{}`, "answer is X", a letter at the start of the text.
    Text after the first answer does not count.
    """
    for marked in (TAGGED, BOXED):
        match = marked.search(text)
        if match:
            inner = LETTER.match(match.group(1).strip())
            return inner.group(1) if inner else None
    named = NAMED.search(text)
    if named:
        return next(filter(None, named.groups()))
    first = FIRST.match(text)
    return next(filter(None, first.groups())) if first else None


def _score(answer: Answer, column: str | None) -> float:
    wanted = read(answer.gold(column))
    if wanted is None:
        raise missing_gold_error("option letter", answer, column)
    return float(read(answer.text) == wanted)
