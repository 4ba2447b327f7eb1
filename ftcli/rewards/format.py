"""Reward of answers that match a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftcli.core.errors import UserError
from ftcli.rewards import Answer

INSIDE = (
    r"(?:(?!</?(?:think|answer)>).)+"  # so that a second block cannot match as part of the first
)
TAGS = rf"<think>{INSIDE}</think>\s*<answer>{INSIDE}</answer>"


def format(answers: Sequence[Answer], pattern: str = TAGS) -> list[float]:
    """Return 1 where the whole answer matches the pattern, else 0.

    Args:
        pattern: a regular expression in which `.` also matches line ends. Default: one think block and
            one answer block (DeepSeek-R1, arXiv 2501.12948, section 2.2.2).

    Raises:
        UserError: the pattern is not a valid regular expression.
    """
    try:
        form = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UserError(f"{pattern!r}: {error}", "objective.rewards.format.pattern") from error
    return [float(form.fullmatch(answer.text.strip()) is not None) for answer in answers]
