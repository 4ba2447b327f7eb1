"""How often answers have the form that was asked for, at the end of training."""

from __future__ import annotations

from pathlib import Path


def answered_in_form(run: Path) -> float:
    """Mean of the reward `format` over the last quarter of the last stage's log, in [0, 1]."""
    from ftcli.reproduce.rollouts import end, logged

    return end(logged(run, "reward.format"))
