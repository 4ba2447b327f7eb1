"""Measurements of the darex recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from ftcli.deltas.delta import Delta
    from ftcli.reproduce.deltas import RunAnalysis

P, LOW, HIGH, STEP = 0.99, 0.05, 1.0, 0.1
SEEDS = (0, 1, 2, 3)  # of the masks
ROWS = 8  # training rows whose outputs decide eta
ETAS = (0.1, 0.7, 0.1)  # lowest, highest, step of the search
GAP_ROWS = 8  # training rows whose outputs decide q in `dare_unlabelled_gap`


@measure
@cache
def dare_q(run: Path) -> float:
    """The q of lowest validation loss in a coarse and a fine search with one mask."""
    from ftcli.papers.darex.pruning import search_grid
    from ftcli.reproduce.deltas import VALIDATION, analyse_run

    analysis = analyse_run(run)
    return search_grid(
        lambda q: analysis.loss(prune_run_delta(analysis, q, 0), VALIDATION),
        lambda a, b: a < b, LOW, HIGH, STEP,
    )[0]  # fmt: skip


def prune_run_delta(analysis: RunAnalysis, q: float | dict[str, float], seed: int) -> Delta:
    """Return the run's delta with 99 % of its blocks' entries dropped and the others divided by q."""
    from ftcli.papers.darex.pruning import drop_entries, select_tensors

    return drop_entries(analysis.delta, P, q, seed, select_tensors(analysis.delta))


@cache
def mean_loss(run: Path, q: float) -> float:
    """Return the test loss of the pruned delta, mean over four masks."""
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    return sum(analysis.loss(prune_run_delta(analysis, q, seed)) for seed in SEEDS) / len(SEEDS)


@measure
def dare_analytic_gain(run: Path) -> float:
    """Test loss at the analytic q minus that at 1 - p, p = 0.99, mean over four masks."""
    return analytic_loss(run) - mean_loss(run, 1 - P)


@cache
def analytic_loss(run: Path) -> float:
    """Return the test loss at the analytic q, mean over four masks; eta changes the outputs least."""
    from ftcli.papers.darex.calibration import OutputChange, compute_layer_q, compute_mean_inputs
    from ftcli.papers.darex.pruning import search_grid
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    finetuned = analysis.delta.apply(analysis.base)
    inputs = compute_mean_inputs(analysis.evaluator, finetuned)
    output_change = OutputChange(analysis.evaluator, finetuned, ROWS)

    def score_eta(eta: float) -> float:
        q = compute_layer_q(analysis.delta, inputs, P, eta)
        return output_change(prune_run_delta(analysis, q, 0).apply(analysis.base))

    eta, _ = search_grid(score_eta, lambda a, b: a < b, *ETAS)
    q = compute_layer_q(analysis.delta, inputs, P, eta)
    return sum(analysis.loss(prune_run_delta(analysis, q, seed)) for seed in SEEDS) / len(SEEDS)


@measure
def dare_analytic_gap(run: Path) -> float:
    """Test loss at the analytic q minus that at the validated q, p = 0.99, mean over four masks."""
    return analytic_loss(run) - mean_loss(run, dare_q(run))


@measure
def dare_delta_norm(run: Path) -> float:
    """Euclidean norm of the finetuned weights minus the pretrained ones."""
    from ftcli.reproduce.deltas import analyse_run

    return analyse_run(run).delta.norm()


@measure
def dare_loss(run: Path) -> float:
    """Test loss with 99 % of the entries dropped and the others times 100, mean over four masks."""
    return mean_loss(run, 1 - P)


@measure
def dare_loss_gain(run: Path) -> float:
    """Test loss at the validated q minus that at 1 - p, p = 0.99, mean over four masks."""
    return mean_loss(run, dare_q(run)) - mean_loss(run, 1 - P)


@measure
def dare_over_magnitude(run: Path) -> float:
    """Test loss of DAREx-q minus that of magnitude pruning, both at p = 0.99 on the blocks' matrices."""
    from dataclasses import replace

    from ftcli.deltas.magnitudes import prune_delta
    from ftcli.papers.darex.pruning import select_tensors
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    delta = analysis.delta
    shapes = {name: delta.shapes[name] for name in select_tensors(delta)}
    largest = prune_delta(replace(delta, shapes=shapes), 1 - P)
    change = delta.map(lambda n, tensor: largest.read(n) if n in shapes else tensor, "largest")
    return mean_loss(run, dare_q(run)) - analysis.loss(change)


@measure
def dare_unlabelled_gap(run: Path) -> float:
    """Test loss at the q that changes the finetuned model's outputs least, minus that at the validated q."""
    from ftcli.papers.darex.calibration import OutputChange
    from ftcli.papers.darex.pruning import search_grid
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    output_change = OutputChange(analysis.evaluator, analysis.delta.apply(analysis.base), GAP_ROWS)
    q, _ = search_grid(
        lambda q: output_change(prune_run_delta(analysis, q, 0).apply(analysis.base)),
        lambda a, b: a < b, LOW, HIGH, STEP,
    )  # fmt: skip
    return mean_loss(run, q) - mean_loss(run, dare_q(run))
