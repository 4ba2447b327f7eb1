"""Error messages of failed runs: step, rows, what was saved, and how to resume."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import FAILED, OUT_OF_MEMORY, UserError

if TYPE_CHECKING:
    from ftcli.config import ComposedJob
    from ftcli.core.run import Run
    from ftcli.trainer.meter import NonFinite

SHOWN = 8  # rows that a message names


@contextmanager
def translate_errors(run: Run, composed: ComposedJob | None = None) -> Iterator[None]:
    """Turn non-finite values and out-of-memory errors raised in the block into a UserError.

    Args:
        composed: where the configuration came from; None: read from the run's directory where needed.
    """
    from ftcli.core.allocator import OutOfMemory, is_oom
    from ftcli.trainer.meter import NonFinite

    try:
        yield
    except NonFinite as error:
        raise report_non_finite(run, error) from error
    except Exception as error:
        if not (isinstance(error, OutOfMemory) or is_oom(error)):
            raise
        raise report_out_of_memory(run, error, composed) from None


def report_non_finite(run: Run, error: NonFinite) -> UserError:
    """Return the error for an infinite or NaN value, after writing the batch and an event to the run."""
    from ftcli.trainer.batch_dump import dump_batch

    dump_batch(run, error)
    if run.dir is not None and run.accelerator.is_main_process:
        with suppress(OSError):  # a full disk must not hide it
            run.dir.append_event("non_finite", step=error.step, what=error.what, rows=error.indices)
    rows = [row for batch in error.indices for row in batch]
    loss = "" if error.what.endswith("loss") else f" (loss {error.loss:.4g})"
    batch = f" The batch is in {error.folder}." if error.folder else ""
    checkpoint = find_last_checkpoint(run)
    change = f"ftcli resume {run.dir.path if run.dir else 'RUN'} trainer.on_nonfinite=skip"
    return UserError(
        f"{error.sentence}{loss}, on rows {_describe_rows(run, rows)}. The run stopped, and nothing was "
        f"saved after it.{batch}",
        where=str(run.dir.path) if run.dir else None,
        fix=f"look at these rows. To go on from {checkpoint} without them: {change}"
        if checkpoint
        else "there is no checkpoint from before: look at these rows, then train again with "
        "trainer.on_nonfinite=skip, or a lower optimizer.lr",
        code=FAILED,
    )


def report_out_of_memory(
    run: Run, error: BaseException, composed: ComposedJob | None = None
) -> UserError:
    """Return the error for exhausted memory: the batch, its shape, and overrides that would fit."""
    from ftcli.core.allocator import first_line
    from ftcli.trainer.meter import peak_memory_gb

    peak = peak_memory_gb()
    if run.dir is not None:
        run.dir.append_log(traceback.format_exc())
    error.__traceback__ = error.__cause__ = error.__context__ = (
        None  # they keep the tensors of the step alive
    )
    gc.collect()
    batches: list[Any] = getattr(error, "batches", [])
    step: int | None = getattr(error, "step", None)
    rows = [row for batch in batches for row in batch["indices"]]
    if run.dir is not None:
        with suppress(OSError):
            run.dir.append_event("out_of_memory", step=step, rows=rows)
    checkpoint = find_last_checkpoint(run)
    kept = f" {checkpoint} is complete." if checkpoint else ""
    ways = _suggest_overrides(run, peak, composed)
    return UserError(
        f"memory ran out at {peak:.2f} GB, {_describe_place(run, step, batches, rows)}: {first_line(error)}.{kept}",
        where=str(run.dir.path) if run.dir else None,
        fix=f"by estimate it fits with {' or '.join(ways)}",
        code=OUT_OF_MEMORY,
    )


def _describe_place(run: Run, step: int | None, batches: Sequence[Any], rows: Sequence[int]) -> str:
    from ftcli.core.allocator import describe_shape

    if step is None:
        return "outside of a step"
    largest = max(batches, key=lambda batch: int(_count_tokens(batch)))
    return f"in step {step}, micro-batch of {describe_shape(largest)} (rows {_describe_rows(run, rows)})"


def _count_tokens(batch: Any) -> int:
    ids = batch.get("input_ids")
    return len(batch["indices"]) if ids is None else ids.numel()


def _suggest_overrides(run: Run, peak: float, composed: ComposedJob | None) -> list[str]:
    """Return overrides with which the job needs less memory than `peak` GB, by the planner's estimate."""
    trainer = run.config["trainer"]
    try:
        suggestions = _plan_alternatives(run, peak, composed)
    except Exception:  # planning needs memory too, and knows no model that is not text
        suggestions = []
    if suggestions:
        return suggestions
    rows, times = run.trainer.batch_size, run.trainer.gradient_accumulation_steps
    halved = f"trainer.batch_size={rows // 2} trainer.gradient_accumulation_steps={2 * times}"
    checkpointing = (
        "" if trainer.get("gradient_checkpointing") else "trainer.gradient_checkpointing=true"
    )
    return [way for way in (halved if rows > 1 else "", checkpointing) if way] or [
        "a smaller model"
    ]


def _plan_alternatives(run: Run, peak: float, composed: ComposedJob | None) -> list[str]:
    from dataclasses import replace

    from ftcli.config import load
    from ftcli.planning.fit import find_alternatives
    from ftcli.planning.machine import GB
    from ftcli.planning.meta_run import MetaRun
    from ftcli.planning.plan import Plan

    if composed is None:
        assert run.dir is not None
        composed = load(run.dir.path / "config.yaml")
    plan = Plan(MetaRun(composed))
    # it did not fit, so the budget is below both the peak and the estimate
    budget = min(int(peak * GB), plan.memory.required - 1)
    plan.machine = replace(plan.machine, memory=budget)
    return [str(way) for way in find_alternatives(plan) if way.total <= budget]


def find_last_checkpoint(run: Run) -> str | None:
    """Return the name of the newest complete checkpoint; None where there is none."""
    from ftcli.trainer.checkpoint import Checkpoints

    whole = Checkpoints(run.dir.checkpoints).list_complete() if run.dir is not None else []
    return whole[-1].name if whole else None


def _describe_rows(run: Run, rows: Sequence[int]) -> str:
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(run.locate_example(row) for row in rows[:SHOWN]) + more
