"""FPF: finetuning of a few groups of parameters on the buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftcli.data.media.labelled_split import Rows
from ftcli.papers.fpf.costs import Costs
from ftcli.papers.fpf.groups import Group, train_only
from ftcli.papers.fpf.objective import ReplayClassification
from ftcli.papers.fpf.reservoir import Reservoir
from ftcli.papers.fpf.stream import cut
from ftcli.trainer.meter import Meter

if TYPE_CHECKING:
    from ftcli.papers.fpf.pipeline import Continual
    from ftcli.trainer.context import Batch, TrainingContext

ORDER = 3  # component of the seeds of passes over the buffer


def list_triggers(phases: int, steps: int) -> list[int]:
    """Return the steps after which a phase runs: `phases` equal intervals, the last one at the end."""
    return [-(-number * steps // phases) for number in range(1, phases + 1)]


def build_batch(
    context: TrainingContext, rows: Sequence[int], buffer: Reservoir, number: int, replayed: int
) -> Batch:
    """Return the batch of some rows, the last `replayed` of which come from the buffer.

    Args:
        number: pass, which seeds the augmentation of images.
    """
    batch: Batch = context.loader.batch(Rows(rows, number))
    objective = context.run.objective
    if replayed and isinstance(objective, ReplayClassification) and objective.kd_weight:
        batch["stored_logits"] = buffer.stack_logits(rows[-replayed:])
    return batch


def finetune_groups(
    context: TrainingContext,
    settings: Continual,
    groups: Sequence[Group],
    buffer: Reservoir,
    costs: Costs,
    first_pass: int,
) -> None:
    """Minimise the objective on the buffer over these groups alone, by SGD of its own.

    What the stream's optimizer keeps is not touched.

    Args:
        first_pass: number of the first pass over the buffer, which no other pass of the run has: with
            the run's seed it decides the order of the rows and the augmentation.
    """
    run, names = context.run, [group.name for group in groups]
    with train_only(run.model, groups):
        parameters = [p for p in context.parameters if p.requires_grad]
        local = _build_context(context, parameters, settings.lr)
        for number in range(first_pass, first_pass + settings.epochs):
            random = np.random.default_rng([run.seed, number, ORDER])
            for part in cut(random.permutation(buffer.rows), settings.batch_size):
                rows = [int(row) for row in part]
                batch = build_batch(context, rows, buffer, number, len(rows))
                key = (*names, len(rows), batch["num_supervised"])
                with costs.count(key, fpf=len(rows)):
                    _take_step(local, batch, bool(parameters))
        context.meter.record_metrics({}, local.meter.evaluations)


def _build_context(context: TrainingContext, parameters: list[Any], lr: float) -> TrainingContext:
    """Return a context that trains these parameters by plain SGD, with a meter of its own."""
    optimizer: Any = context.optimizer
    if parameters:
        optimizer = torch.optim.SGD([{"params": parameters, "lr": lr, "initial_lr": lr}])
    return replace(context, optimizer=optimizer, parameters=parameters, meter=Meter())


def _take_step(local: TrainingContext, batch: Batch, has_parameters: bool) -> None:
    """Take a step; where only statistics are trained, the forward pass moves them."""
    if has_parameters:
        local.compute_gradients([batch])
        local.clip_and_step(1.0, local.run.trainer.max_grad_norm)
    else:
        with torch.no_grad(), local.run.autocast():
            local.run.objective(local.model, batch)
