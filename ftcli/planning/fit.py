"""Alternatives to a job that does not fit into memory, each of them planned; the best first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ftcli.config import compose, validate_and_convert
from ftcli.config.paths import format_path
from ftcli.core.errors import UserError
from ftcli.planning.machine import GB
from ftcli.planning.meta_run import MetaRun
from ftcli.planning.plan import Plan

#: Overrides that save memory, from the one that costs least: time, then precision, then method.
SAVINGS = (
    ("trainer.gradient_checkpointing=true",),
    ("model.quantization=nf4",),
    ("method=lora",),
    ("method=lora", "model.quantization=nf4"),
    ("trainer.gradient_checkpointing=true", "model.quantization=nf4"),
    ("trainer.gradient_checkpointing=true", "method=lora", "model.quantization=nf4"),
)
SHOWN = 3  # alternatives that are found


@dataclass(frozen=True)
class Alternative:
    """Overrides under which the job fits, and the memory it then needs in bytes."""

    overrides: tuple[str, ...]
    total: int

    def __str__(self) -> str:
        return f"{' '.join(self.overrides)} ({self.total / GB:.1f} GB)"


def find_alternatives(plan: Plan) -> list[Alternative]:
    """Return up to three ways to make the job fit: a smaller micro-batch, then `SAVINGS` in order."""
    alternatives: list[Alternative] = []
    for way in _ways(plan):
        if not any(set(other.overrides) <= set(way.overrides) for other in alternatives):
            alternatives.append(way)
        if len(alternatives) == SHOWN:
            break
    return alternatives


def _ways(plan: Plan) -> Iterator[Alternative]:
    smaller = _shrink_micro_batch(plan, ())
    if smaller:
        yield smaller
    for saving in SAVINGS:
        other = _plan_with(plan, saving)
        if other is None:
            continue
        if other.fits:
            yield Alternative(saving, other.memory.required)
        elif not smaller and (reduced := _shrink_micro_batch(other, saving)):
            yield reduced


def _shrink_micro_batch(plan: Plan, already: tuple[str, ...]) -> Alternative | None:
    """Return the largest micro-batch that fits and divides the batch, accumulated to the same batch."""
    trainer = plan.meta_run.trainer
    most = plan.estimate.largest_rows(plan.machine.memory) // plan.documents
    sizes = [n for n in range(1, trainer.batch_size) if trainer.batch_size % n == 0]
    for rows in sorted((n for n in sizes if n <= most), reverse=True):
        steps = trainer.gradient_accumulation_steps * trainer.batch_size // rows
        words = (f"trainer.batch_size={rows}", f"trainer.gradient_accumulation_steps={steps}")
        total = plan.estimate.with_accumulation().memory(rows * plan.documents).required
        if total <= plan.machine.memory:
            return Alternative((*already, *words), total)
    return None


def _plan_with(plan: Plan, overrides: tuple[str, ...]) -> Plan | None:
    """Plan the job with further overrides; None where they change nothing or contradict it."""
    meta_run = plan.meta_run
    if any(_is_set(plan, word) for word in overrides):
        return None
    try:
        composed = compose(meta_run.composed.job_file, [*meta_run.composed.overrides, *overrides])
        validate_and_convert(composed)
        other = Plan(
            MetaRun(composed, meta_run.gpu), plan.gpu, plan.schedule
        )  # the data stay the same
        _ = other.estimate
    except UserError:
        return None
    return other


def _is_set(plan: Plan, word: str) -> bool:
    """Whether the job has the value of an override already."""
    meta_run = plan.meta_run
    return {
        "trainer.gradient_checkpointing=true": meta_run.trainer.gradient_checkpointing,
        "model.quantization=nf4": meta_run.quantization != "none",
        "method=lora": meta_run.method.artefact == "adapter",
    }[word]


def explain_misfit(plan: Plan, ways: Sequence[Alternative]) -> UserError | None:
    """Return the error of a job that does not fit: need, memory, what would fit; None if it fits.

    Args:
        ways: what `find_alternatives` returned.
    """
    if plan.fits:
        return None
    memory, machine = plan.memory, plan.machine
    sizes = memory.parts()
    sizes["optimizer"] -= memory.pageable
    parts = sorted(sizes.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts if size >= 0.05 * GB)
    what = f"needs about {memory.required / GB:.1f} GB, {machine.name} has "
    what += f"{machine.memory / GB:.1f}{'' if machine.assumed else ' free'} ({listed})."
    fix = "choose a smaller model, or lower data.max_length: nothing else makes it fit"
    if ways:
        fix = f"fits with {' or '.join(map(str, ways))}\n  {format_command(plan, ways[0])}"
    return UserError(what, where=plan.meta_run.source.path, fix=fix)


def format_command(plan: Plan, way: Alternative) -> str:
    """Return the command line that trains with an alternative."""
    composed = plan.meta_run.composed
    return shlex.join(
        ["ftcli", "train", format_path(composed.job_file), *composed.overrides, *way.overrides]
    )
