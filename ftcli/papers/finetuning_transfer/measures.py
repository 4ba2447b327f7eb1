"""Measurements of the finetuning_transfer recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ftcli.reproduce.measures import measure

SOURCE = "transfer"  # the variant that was finetuned from the older base
POINTS = 5
STEPS = 15  # a quarter of the run's


@measure
@cache
def transfer_gain(run: Path) -> float:
    """Test loss of this run's base with the older base's change minus that without; no training."""
    return losses(run)[1] - losses(run)[0]


@cache
def losses(run: Path) -> tuple[float, float]:
    """Of this run's base as it is, and with the change."""
    from ftcli.papers.finetuning_transfer.transfer import transferred
    from ftcli.reproduce.deltas import analyse_run, find_partner_run

    one, source = analyse_run(run), analyse_run(find_partner_run(run, SOURCE))
    bare = one.loss(one.delta.scale(0.0))
    return bare, one.loss_of(transferred(source.delta, one.base))


@measure
def transfer_barrier(run: Path) -> float:
    """Most by which the test loss between the older base and this run's rises above the straight line.

    Of the finetuned models of both: a base knows nothing of the task, whose loss judges.
    """
    from ftcli.deltas.artefact import Artefact
    from ftcli.papers.finetuning_transfer.transfer import barrier, connectivity
    from ftcli.reproduce.deltas import TEST, analyse_run, find_partner_run

    ends = (Artefact.open(find_partner_run(run, SOURCE)), Artefact.open(run))
    return barrier(connectivity(analyse_run(run).evaluator, *ends, POINTS, TEST))


@measure
def transfer_head_start(run: Path) -> float:
    """Test loss after 15 steps from the transferred model minus that after 15 steps from the base."""
    from ftcli.papers.finetuning_transfer.transfer import transferred
    from ftcli.reproduce.deltas import analyse_run, find_partner_run

    one, source = analyse_run(run), analyse_run(find_partner_run(run, SOURCE))
    starts = (transferred(source.delta, one.base), one.delta.scale(0.0).apply(one.base))
    moved, bare = (_after(run, dict(start.items())) for start in starts)
    return moved - bare


def _after(run: Path, start: dict) -> float:
    """Test loss of a model that was trained for some steps as the run was."""
    import torch

    from ftcli.reproduce.deltas import analyse_run
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run, trainer={"max_steps": STEPS, "eval_first": False, "eval_every": None})
    fresh.load_model()
    fresh.evaluators = {}
    with torch.no_grad():
        for name, parameter in fresh.model.named_parameters():
            parameter.copy_(start[name])
    fresh.trainer.fit(fresh)
    trained = {name: p.detach() for name, p in fresh.model.named_parameters()}
    return analyse_run(run).loss_of(trained)


@measure
def transfer_recovered(run: Path) -> float:
    """Fall of the test loss by transfer over the fall by finetuning this run's base itself."""
    from ftcli.reproduce.deltas import analyse_run

    bare, moved = losses(run)
    return (bare - moved) / (bare - analyse_run(run).trained)
