"""What reinforcement adds to the reward."""

from __future__ import annotations

from pathlib import Path


def reward_gain(run: Path) -> float:
    """Mean reward over the last quarter of the last stage's log minus that over its first quarter."""
    from ftcli.reproduce.rollouts import beginning, end, logged

    rewards = logged(run, "reward")
    return end(rewards) - beginning(rewards)
