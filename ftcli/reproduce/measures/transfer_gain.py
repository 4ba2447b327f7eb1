"""What the change of an older base gives another one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

SOURCE = "transfer"  # the variant that was finetuned from the older base


@cache
def transfer_gain(run: Path) -> float:
    """Test loss of this run's base with the older base's change minus that without; no training."""
    return losses(run)[1] - losses(run)[0]


@cache
def losses(run: Path) -> tuple[float, float]:
    """Of this run's base as it is, and with the change."""
    from ftcli.papers.finetuning_transfer.transfer import transferred
    from ftcli.reproduce.deltas import opened, partner

    one, source = opened(run), opened(partner(run, SOURCE))
    bare = one.loss(one.delta.scale(0.0))
    return bare, one.loss_of(transferred(source.delta, one.base))
