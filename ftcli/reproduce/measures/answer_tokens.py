"""How long answers are at the end of training."""

from __future__ import annotations

from pathlib import Path


def answer_tokens(run: Path) -> float:
    """Mean tokens of an answer over the last quarter of the last stage's log."""
    from ftcli.reproduce.rollouts import end, logged

    return end(logged(run, "answer_tokens"))
