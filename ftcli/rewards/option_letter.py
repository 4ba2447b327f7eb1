"""Whether an answer to a multiple-choice question names the right option."""

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
    """1 where the letter of the answer equals the gold one, else 0; no letter is 0.

    Args:
        column: of the row that holds the gold letter; the completion when left out.

    Raises:
        UserError: a gold answer names no letter.
    """
    return [_score(answer, column) for answer in answers]


def read(text: str) -> str | None:
    """The letter that is answered, of the first answer that the text gives.

    Looked for in this order: `<answer>`, `\\boxed{}`, "answer is X", the letter the text begins with.
    Whatever comes behind a first answer does not count.
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
