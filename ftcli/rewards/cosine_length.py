"""Reward of correctness and length: it favours short right answers and long wrong ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from ftcli.core.errors import UserError
from ftcli.rewards import Answer, find_reward


def cosine_length(
    answers: Sequence[Answer],
    judge: str = "option_letter",
    longest: int = 1000,
    right: Sequence[float] = (0.5, 1.0),
    wrong: Sequence[float] = (-0.5, -1.0),
    unit: Literal["tokens", "characters"] = "tokens",
    clamp: bool = True,
    column: str | None = None,
) -> list[float | None]:
    """Return low + (high - low) (1 + cos(pi length / longest)) / 2 (Yeo et al. 2025, arXiv 2502.03373).

    By default a right answer gets 1.0 (short) to 0.5 (long), a wrong one -1.0 (short) to -0.5 (long).

    Args:
        judge: the reward that decides what is right (1) and wrong (less).
        longest: length at which the cosine reaches its minimum.
        right, wrong: (low, high) of right and of wrong answers.
        unit: unit of the length.
        clamp: treat lengths above `longest` as `longest`; without it the cosine rises again there.
        column: column of the gold answer; None: the completion.

    Raises:
        UserError: `judge` is this reward itself, or cannot parse a gold answer.
    """
    if judge == "cosine_length":
        raise UserError("cosine_length cannot judge itself.", "objective.rewards.cosine_length")
    verdicts = find_reward(judge, {"column": column} if column else {})(answers)
    scores: list[float | None] = []
    for answer, verdict in zip(answers, verdicts, strict=True):
        if verdict is None:
            scores.append(None)
            continue
        share = (len(answer.ids) if unit == "tokens" else len(answer.text)) / longest
        low, high = right if verdict >= 1 else wrong
        scores.append(_cosine(min(share, 1.0) if clamp else share, low, high))
    return scores


def _cosine(share: float, low: float, high: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2
