"""Measurements of the gazal_r1 recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure
def answer_tokens(run: Path) -> float:
    """Mean number of tokens per answer over the last quarter of the last stage's log."""
    from ftcli.reproduce.rollouts import mean_at_end, read_logged

    return mean_at_end(read_logged(run, "answer_tokens"))


@measure
def answered_in_form(run: Path) -> float:
    """Mean of the reward `format` over the last quarter of the last stage's log, in [0, 1]."""
    from ftcli.reproduce.rollouts import mean_at_end, read_logged

    return mean_at_end(read_logged(run, "reward.format"))


@measure
def reward_gain(run: Path) -> float:
    """Mean reward over the last quarter of the last stage's log minus that over its first quarter."""
    from ftcli.reproduce.rollouts import mean_at_end, mean_at_start, read_logged

    rewards = read_logged(run, "reward")
    return mean_at_end(rewards) - mean_at_start(rewards)
