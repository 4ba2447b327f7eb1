"""Measurements of the finetuning_transfer recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "transfer"  # the variant that was finetuned from the older base
POINTS = 5
STEPS = 15  # a quarter of the run's


@measure
@cache
def transfer_gain(run: Path) -> float:
    """Test loss of this run's base with the change of the older base minus that without; no training."""
    return base_losses(run)[1] - base_losses(run)[0]


@cache
def base_losses(run: Path) -> tuple[float, float]:
    """Return the test losses of this run's base as it is, and with the change of the older base."""
    from ftcli.papers.finetuning_transfer.transfer import transfer_delta
    from ftcli.reproduce.deltas import analyse_run, find_partner_run

    target, source = analyse_run(run), analyse_run(find_partner_run(run, SOURCE))
    bare = target.loss(target.delta.scale(0.0))
    return bare, target.loss_of(transfer_delta(source.delta, target.base))


@measure
def transfer_barrier(run: Path) -> float:
    """Most by which the test loss on the path between two models rises above the straight line.

    The ends are the finetuned models of the older base and of this run's: the bases themselves have not
    learned the task whose loss is measured.
    """
    from ftcli.deltas.artefact import Artefact
    from ftcli.papers.finetuning_transfer.transfer import barrier, score_path
    from ftcli.reproduce.deltas import TEST, analyse_run, find_partner_run

    ends = (Artefact.open(find_partner_run(run, SOURCE)), Artefact.open(run))
    return barrier(score_path(analyse_run(run).evaluator, *ends, POINTS, TEST))


@measure
def transfer_head_start(run: Path) -> float:
    """Test loss after 15 steps from the transferred model minus that after 15 steps from the base."""
    from ftcli.papers.finetuning_transfer.transfer import transfer_delta
    from ftcli.reproduce.deltas import analyse_run, find_partner_run

    target, source = analyse_run(run), analyse_run(find_partner_run(run, SOURCE))
    transferred = transfer_delta(source.delta, target.base)
    starts = (transferred, target.delta.scale(0.0).apply(target.base))
    losses = [_train_from(run, dict(start.items())) for start in starts]
    return losses[0] - losses[1]


def _train_from(run: Path, start: dict[str, Tensor]) -> float:
    """Return the test loss after training from these weights for some steps as the run was trained."""
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
    """Decrease of the test loss by transfer over the decrease by finetuning this run's base."""
    from ftcli.reproduce.deltas import analyse_run

    bare, transferred = base_losses(run)
    return (bare - transferred) / (bare - analyse_run(run).trained_loss)
