"""Measurements of the fpf recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftcli.core.run_dir import RunDir
from ftcli.reproduce.measures import measure

BEFORE, CEILING = "sgd", "joint"  # variants: nothing against forgetting, and all tasks at once


@measure(exact=True)
def example_gradients(run: Path) -> float:
    """Gradients of examples in the whole run, those of replay and phases included, whichever parameters get one."""
    return float(RunDir(run).result()["gradients"])


@measure(exact=True)
def training_flops(run: Path) -> float:
    """Floating-point operations of all forward and backward passes of training."""
    return float(RunDir(run).result()["training_flops"])


@measure(exact=True)
def fpf_parameters(run: Path) -> float:
    """Parameters that the last phase trained; running statistics are not counted."""
    return float(RunDir(run).result()["fpf_parameters"])


@measure
def forgetting(run: Path) -> float:
    """Mean over all tasks but the last of the best accuracy in percent minus the final one."""
    return float(RunDir(run).result()["forgetting"])


@measure
def stream_forgetting(run: Path) -> float:
    """The same before the last phase."""
    return float(RunDir(run).result()["stream_forgetting"])


@measure
def recovered_share(run: Path) -> float:
    """Accuracy above that of plain training on the sequence, as a share of what training on all tasks at once has above it."""
    from ftcli.reproduce.deltas import find_partner_run

    folders = (run, find_partner_run(run, BEFORE), find_partner_run(run, CEILING))
    own, before, ceiling = (RunDir(f).result()["metrics"]["eval.accuracy"] for f in folders)
    return float((own - before) / (ceiling - before))


@measure
def statistics_shift_over_convolutions(run: Path) -> float:
    """How much more BatchNorm statistics change from one task to the next than within one, by the same of convolutions.

    Both are means over groups of across / within; the first convolution is left out.
    """
    statistics = _read_groups(run, "batchnorm statistics")
    return _mean_ratio(statistics) / _mean_ratio(_read_groups(run, "conv weight")[1:])


@measure
def norms_over_convolutions(run: Path) -> float:
    """Change of an entry of BatchNorm's weights and biases from one task to the next, by that of all convolutions but the first."""
    norms = _read_groups(run, "batchnorm weight") + _read_groups(run, "batchnorm bias")
    return _mean_across(norms) / _mean_across(_read_groups(run, "conv weight")[1:])


@measure
def last_layer_over_convolutions(run: Path) -> float:
    """Change of the last layer's weight from one task to the next, by that of all convolutions but the first."""
    return _mean_across(_read_groups(run, "linear weight")[-1:]) / _mean_across(
        _read_groups(run, "conv weight")[1:]
    )


@measure
def first_over_other_convolutions(run: Path) -> float:
    """Change of the first convolution from one task to the next, by that of the others."""
    convolutions = _read_groups(run, "conv weight")
    return _mean_across(convolutions[:1]) / _mean_across(convolutions[1:])


@measure(exact=True)
def frozen_groups_moved(run: Path) -> float:
    """Number of groups outside the selection that one more phase on the run's buffer changes in any bit.

    Infinite where a selected one does not move, so that the comparison would show nothing.
    """
    import torch

    from ftcli.papers.fpf.phase import finetune_groups
    from ftcli.papers.fpf.training import ContinualTraining
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    settings: Any = fresh.pipeline
    training = ContinualTraining(settings, fresh)
    for rows in training.stream.tasks:
        training.buffer.offer(rows)
    training.sensitivity.record(None)
    chosen = {group.name for group in training.choose_groups()}
    finetune_groups(
        training.context, settings, training.choose_groups(), training.buffer,
        training.costs, len(training.stream.passes),
    )  # fmt: skip
    moved = {
        group.name
        for group, before in zip(
            training.sensitivity.groups, training.sensitivity.reference, strict=True
        )
        if not all(torch.equal(a, b) for a, b in zip(group.tensors, before, strict=True))
    }
    return float(len(moved - chosen)) if chosen <= moved else float("inf")


def _read_groups(run: Path, kind: str) -> list[dict[str, Any]]:
    """Return the groups of a kind in the order of the model, with their changes."""
    from ftcli.papers.fpf.training import FILE

    content = json.loads((run / FILE).read_text(encoding="utf-8"))
    return [group for group in content["groups"] if group["kind"] == kind]


def _mean_ratio(groups: list[dict[str, Any]]) -> float:
    return sum(group["across"] / group["within"] for group in groups) / len(groups)


def _mean_across(groups: list[dict[str, Any]]) -> float:
    """Return the mean change of an entry across tasks, all entries counted alike."""
    total = sum(group["across"] * group["entries"] for group in groups)
    return float(total / sum(group["entries"] for group in groups))
