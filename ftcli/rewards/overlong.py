"""Penalty on answers that approach or exceed the maximum length."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.core.errors import UserError
from ftcli.rewards import Answer


def overlong(answers: Sequence[Answer], longest: int = 512, margin: int = 128) -> list[float]:
    """Return 0 up to `longest - margin` tokens, then linearly down to -1 (DAPO, arXiv 2503.14476, eq. 13).

    Args:
        longest: number of tokens from which the penalty is -1.
        margin: number of tokens over which it grows.

    Raises:
        UserError: the margin is not between 1 and `longest`.
    """
    if not 1 <= margin <= longest:
        raise UserError(
            f"a margin of {margin} tokens does not fit in {longest}.",
            where="objective.rewards.overlong.margin",
            fix="objective.rewards.overlong.margin between 1 and longest",
        )
    start = longest - margin
    return [-min(1.0, max(0.0, (len(answer.ids) - start) / margin)) for answer in answers]
