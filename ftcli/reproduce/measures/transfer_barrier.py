"""Whether two bases are connected by a straight line of low loss."""

from __future__ import annotations

from pathlib import Path

POINTS = 5


def transfer_barrier(run: Path) -> float:
    """Most by which the test loss between the older base and this run's rises above the straight line.

    Of the finetuned models of both: a base knows nothing of the task, whose loss judges.
    """
    from ftcli.deltas.artefact import Artefact
    from ftcli.papers.finetuning_transfer.transfer import barrier, connectivity
    from ftcli.reproduce.deltas import TEST, opened, partner
    from ftcli.reproduce.measures.transfer_gain import SOURCE

    ends = (Artefact.open(partner(run, SOURCE)), Artefact.open(run))
    return barrier(connectivity(opened(run).bench, *ends, POINTS, TEST))
