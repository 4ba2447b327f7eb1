"""Measurements of the lines recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ftcli.reproduce.measures import measure

GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MERGING_GRID = (0.2, 0.4, 0.6, 0.8, 1.0)
GAMMAS = (0.2, 0.5)
SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@measure
@cache
def lines_gamma(run: Path) -> float:
    """The gamma with the least 2 * target + control.

    target: held-out loss over that of the finetuned model; control: loss on text of the pretrained model
    over that of the pretrained model.
    """
    from ftcli.papers.lines.scaling import scale_by_depth, search_gamma, single_task_factors
    from ftcli.reproduce.deltas import VALIDATION, analyse_run

    analysis = analyse_run(run)

    def losses(gamma: float) -> tuple[float, float]:
        change = scale_by_depth(analysis.delta, *single_task_factors(gamma))
        return analysis.loss(change, VALIDATION), analysis.control_loss(change)

    return search_gamma(
        losses,
        finetuned=analysis.loss(analysis.delta, VALIDATION),
        pretrained=analysis.control_loss(analysis.delta.scale(0.0)),
        grid=GRID,
    )[0]


@measure
def lines_forgetting_share(run: Path) -> float:
    """Rise of the loss on text of the pretrained model at the chosen gamma, over the finetuned model's rise."""
    from ftcli.papers.lines.scaling import scale_by_depth, single_task_factors
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    zero, full = (analysis.control_loss(analysis.delta.scale(factor)) for factor in (0.0, 1.0))
    left = analysis.control_loss(
        scale_by_depth(analysis.delta, *single_task_factors(lines_gamma(run)))
    )
    return (left - zero) / (full - zero)


@measure(exact=True)
def lines_limits_error(run: Path) -> float:
    """Largest deviation from: gamma 1 is the finetuned model; gamma 0 keeps the last block's change and
    removes that of the first block and of tensors outside; beta 0 is a uniform scale.
    """
    from ftcli.deltas.positions import find_positions
    from ftcli.papers.lines.scaling import scale_by_depth, single_task_factors
    from ftcli.reproduce.deltas import analyse_run

    change = analyse_run(run).delta
    assert change.source is not None
    places = find_positions(change.source.anatomy, list(change))
    whole, none = (
        scale_by_depth(change, *single_task_factors(1.0)),
        scale_by_depth(change, *single_task_factors(0.0)),
    )
    level = scale_by_depth(change, 0.3, 0.0)
    errors = []
    for name, place in places.items():
        tensor = change[name]
        errors += [(whole[name] - tensor).abs().max(), (level[name] - 0.3 * tensor).abs().max()]
        if place is None or place[0] == 0:
            errors.append(none[name].abs().max())
        elif place[0] == place[1] - 1:
            errors.append((none[name] - tensor).abs().max())
    return max(error.item() for error in errors)


@measure
def lines_merging_gain(run: Path) -> float:
    """Mean test loss of two tasks relative to their finetuned models, merged with LiNeS minus without.

    Both mergers have one parameter, chosen on held-out rows: beta with alpha = 1/2 (LiNeS), or the scale
    of the sum.
    """
    from ftcli.deltas.delta import Delta, sum_deltas
    from ftcli.papers.lines.scaling import scale_by_depth
    from ftcli.reproduce.deltas import TEST, VALIDATION, analyse_run, find_minimum, find_partner_run

    tasks = [analyse_run(run), analyse_run(find_partner_run(run, "gsm8k"))]
    merged = sum_deltas([task.delta for task in tasks])

    def loss(change: Delta, split: str) -> float:
        return sum(t.loss(change, split) / t.loss(t.delta, split) for t in tasks) / len(tasks)

    def with_lines(beta: float) -> Delta:
        return scale_by_depth(merged, 1 / len(tasks), beta)

    beta = find_minimum(lambda b: loss(with_lines(b), VALIDATION), MERGING_GRID)
    level = find_minimum(lambda s: loss(merged.scale(s), VALIDATION), MERGING_GRID)
    return loss(with_lines(beta), TEST) - loss(merged.scale(level), TEST)


@measure
def lines_over_uniform(run: Path) -> float:
    """Loss on text of the pretrained model, LiNeS minus uniform scaling at equal test loss; mean over gammas.

    The loss of uniform scaling is interpolated between neighbouring scales.
    """
    from ftcli.papers.lines.scaling import scale_by_depth, single_task_factors
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    changes = [analysis.delta.scale(factor) for factor in SCALES]
    line = [(analysis.loss(change), analysis.control_loss(change)) for change in changes]
    differences = []
    for gamma in GAMMAS:
        change = scale_by_depth(analysis.delta, *single_task_factors(gamma))
        differences.append(
            analysis.control_loss(change) - _interpolate(line, analysis.loss(change))
        )
    return sum(differences) / len(differences)


def _interpolate(line: list[tuple[float, float]], target: float) -> float:
    """Return the second value where the first is `target`; outside the line, that of its nearest point."""
    for (before, low), (after, high) in zip(line, line[1:], strict=False):
        if min(before, after) <= target <= max(before, after):
            share = (target - before) / (after - before)
            return low + share * (high - low)
    return min(line, key=lambda point: abs(point[0] - target))[1]


@measure
def lines_target_ratio(run: Path) -> float:
    """Test loss at the gamma chosen on held-out rows over that of the finetuned model."""
    from ftcli.papers.lines.scaling import scale_by_depth, single_task_factors
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    return (
        analysis.loss(scale_by_depth(analysis.delta, *single_task_factors(lines_gamma(run))))
        / analysis.trained_loss
    )
