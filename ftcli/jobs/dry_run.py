"""`ftcli train --dry-run`: one real step on the longest rows of the data; no run directory is left."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftcli.core.run import Run
from ftcli.run.build import build_run

if TYPE_CHECKING:
    from ftcli.config import ComposedJob
    from ftcli.trainer.context import Batch, TrainingContext

QUICK = 20.0  # seconds; a first step below it is followed by a second one, which is timed


@dataclass
class DryRunReport:
    """Time and memory of one training step.

    Attributes:
        shape: shape of the largest micro-batch, in words.
        step_seconds, evaluation_seconds: time of one step, and of the evaluated batches.
        peak_bytes: peak memory of the process so far.
        run_steps: number of steps of the whole run.
        run_seconds: estimated time of the whole run, without evaluations and saves.
    """

    shape: str
    step_seconds: float
    evaluation_seconds: float
    peak_bytes: int
    run_steps: int
    run_seconds: float


def dry_run(composed: ComposedJob) -> DryRunReport:
    """Take one training step and one evaluation of a validated job on its longest rows.

    One process is measured; each of several ranks needs as much.

    Raises:
        UserError: the error that training would raise; code 3 when memory ran out.
    """
    from ftcli.jobs import failures
    from ftcli.jobs.bases import train_missing_base

    train_missing_base(composed)  # the model may be what another recipe trains
    run = build_run(composed.config, None, composed)
    run.loggers = {}
    with failures.translate_errors(run, composed):
        return _measure_run(run)


def _measure_run(run: Run) -> DryRunReport:
    from ftcli.core.allocator import describe_shape
    from ftcli.trainer.meter import peak_memory_gb

    context = run.trainer.prepare_training(run)
    loader = context.loader
    chosen = find_longest_rows(run, loader)
    batches = [loader.batch(rows) for rows in chosen]
    seconds = _time_step(context, batches)
    if seconds < QUICK:  # the first one also loads kernels and makes buffers
        seconds = _time_step(context, batches)
    began = time.perf_counter()
    _evaluate_longest(run)
    judged = time.perf_counter() - began
    plan = loader.list_batch_indices(0)
    share = _count_tokens(loader, plan) / len(plan) / (_count_tokens(loader, chosen) / len(chosen))
    steps = run.trainer.count_steps(run)
    peak = int(peak_memory_gb() * 1e9)
    return DryRunReport(
        describe_shape(batches[0]), seconds, judged, peak, steps, seconds * share * steps
    )


def _time_step(context: TrainingContext, batches: list[Batch]) -> float:
    began = time.perf_counter()
    context.run.trainer.train_step(context, batches)
    context.meter.check_pending()  # waits for the device, and sees that all was finite
    return time.perf_counter() - began


def _evaluate_longest(run: Run) -> None:
    """Run the longest validation rows, and one batch of each evaluator that has a limit."""
    from ftcli.models.decoding import evaluation_mode

    with run.evaluation_weights():
        if "validation" in run.data.splits:
            size = run.trainer.batch_size
            loader = run.data.loader("validation", run.tokenizer, size, seed=0, shuffle=False)
            with evaluation_mode(run) as model:
                run.objective(model, loader.batch(find_longest_rows(run, loader)[0]))
        for evaluator in run.evaluators.values():
            if hasattr(evaluator, "limit"):
                limited = copy(evaluator)
                limited.limit = getattr(evaluator, "batch_size", None) or run.trainer.batch_size
                limited(run)


def find_longest_rows(run: Run, loader: Any) -> list[list[int]]:
    """Return the rows of the micro-batches of one step, longest first; no batch of any epoch is longer.

    Packed bins are always full, and rows without lengths are all of one size; for these the batches
    of the first epoch are taken.
    """
    times, size = run.trainer.gradient_accumulation_steps, run.trainer.batch_size
    lengths = getattr(getattr(loader, "prepared", None), "lengths", None)
    if lengths is None or getattr(loader, "packing", None) == "bins":
        plan = loader.list_batch_indices(0)
        plan = sorted(plan, key=lambda rows: -_count_tokens(loader, [rows]))
        return [list(rows) for rows in plan[:times]]
    group = loader.group
    widths = lengths.reshape(-1, group)
    widths_of_groups = (
        widths.max(1) if loader.packing == "none" else widths.sum(1)
    )  # padded, or end to end
    order = widths_of_groups.argsort(kind="stable")[::-1]
    units = [order[start : start + size] for start in range(0, times * size, size)]
    rows = [[int(group * u + i) for u in part for i in range(group)] for part in units]
    return [part for part in rows if part]


def _count_tokens(loader: Any, plan: list[list[int]]) -> int:
    """Return the size of micro-batches: tokens with padding, or rows where the data have no lengths."""
    lengths = getattr(getattr(loader, "prepared", None), "lengths", None)
    if lengths is None:
        return sum(map(len, plan))
    if getattr(loader, "packing", None) == "none":
        return sum(len(rows) * int(lengths[rows].max()) for rows in plan)
    return sum(int(lengths[rows].sum()) for rows in plan)
