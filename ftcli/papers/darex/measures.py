"""Measurements of the darex recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

P, LOW, HIGH, STEP = 0.99, 0.05, 1.0, 0.1
SEEDS = (0, 1, 2, 3)  # of masks
ROWS = 8  # training rows whose outputs choose eta
ETAS = (0.1, 0.7, 0.1)  # lowest, highest, step of the search
GAP_ROWS = 8


@measure
@cache
def dare_q(run: Path) -> float:
    """Coarse and fine search by held-out loss, one mask."""
    from ftcli.papers.darex.pruning import search
    from ftcli.reproduce.deltas import VALIDATION, analyse_run

    one = analyse_run(run)
    return search(
        lambda q: one.loss(pruned(one, q, 0), VALIDATION), lambda a, b: a < b, LOW, HIGH, STEP
    )[0]


def pruned(one: Any, q: float | dict[str, float], seed: int) -> Any:
    """The run's delta with 99 % of its blocks' entries dropped."""
    from ftcli.papers.darex.pruning import dropped, scope

    return dropped(one.delta, P, q, seed, scope(one.delta))


@cache
def mean_loss(run: Path, q: float) -> float:
    """Test loss, mean over four masks."""
    from ftcli.reproduce.deltas import analyse_run

    one = analyse_run(run)
    return sum(one.loss(pruned(one, q, seed)) for seed in SEEDS) / len(SEEDS)


@measure
def dare_analytic_gain(run: Path) -> float:
    """Test loss at the analytic q minus that at 1 - p, p = 0.99, mean over four masks."""
    return analytic_loss(run) - mean_loss(run, 1 - P)


@cache
def analytic_loss(run: Path) -> float:
    """Test loss at the analytic q, mean over four masks; eta moves the finetuned outputs least."""
    from ftcli.papers.darex.calibration import OutputChange, analytic, mean_inputs
    from ftcli.papers.darex.pruning import search
    from ftcli.reproduce.deltas import analyse_run

    one = analyse_run(run)
    finetuned = one.delta.apply(one.base)
    inputs = mean_inputs(one.evaluator, finetuned)
    change = OutputChange(one.evaluator, finetuned, ROWS)

    def moved(eta: float) -> float:
        return change(pruned(one, analytic(one.delta, inputs, P, eta), 0).apply(one.base))

    eta, _ = search(moved, lambda a, b: a < b, *ETAS)
    q = analytic(one.delta, inputs, P, eta)
    return sum(one.loss(pruned(one, q, seed)) for seed in SEEDS) / len(SEEDS)


@measure
def dare_analytic_gap(run: Path) -> float:
    """Test loss at the analytic q minus that at the validated q, p = 0.99, mean over four masks."""
    return analytic_loss(run) - mean_loss(run, dare_q(run))


@measure
def dare_delta_norm(run: Path) -> float:
    """Euclidean norm of finetuned minus pretrained."""
    from ftcli.reproduce.deltas import analyse_run

    return analyse_run(run).delta.norm()


@measure
def dare_loss(run: Path) -> float:
    """Test loss with 99 % of the entries dropped and the rest times 100, mean over four masks."""
    return mean_loss(run, 1 - P)


@measure
def dare_loss_gain(run: Path) -> float:
    """Test loss at the q chosen on held-out rows minus that at 1 - p, p = 0.99, mean over four masks."""
    return mean_loss(run, dare_q(run)) - mean_loss(run, 1 - P)


@measure
def dare_over_magnitude(run: Path) -> float:
    """Test loss of DAREx-q minus that of magnitude pruning, both at p = 0.99 on the blocks' matrices."""
    from dataclasses import replace

    from ftcli.deltas.largest import pruned
    from ftcli.papers.darex.pruning import scope
    from ftcli.reproduce.deltas import analyse_run

    one = analyse_run(run)
    inner = {name: one.delta.shapes[name] for name in scope(one.delta)}
    cut = pruned(replace(one.delta, shapes=inner), 1 - P)
    change = one.delta.map(lambda name, own: cut.read(name) if name in inner else own, "largest")
    return mean_loss(run, dare_q(run)) - one.loss(change)


@measure
def dare_unlabelled_gap(run: Path) -> float:
    """Test loss at the q that moves the finetuned model's outputs least, minus that at the validated q."""
    from ftcli.papers.darex.calibration import OutputChange
    from ftcli.papers.darex.pruning import search
    from ftcli.reproduce.deltas import analyse_run

    one = analyse_run(run)
    change = OutputChange(one.evaluator, one.delta.apply(one.base), GAP_ROWS)
    q, _ = search(
        lambda q: change(pruned(one, q, 0).apply(one.base)), lambda a, b: a < b, LOW, HIGH, STEP
    )
    return mean_loss(run, q) - mean_loss(run, dare_q(run))
