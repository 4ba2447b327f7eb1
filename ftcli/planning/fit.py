"""What to do about a job that does not fit: alternatives that were computed, best first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ftcli.config import compose, validate
from ftcli.config.paths import shown
from ftcli.core.errors import UserError
from ftcli.planning.draft import Draft
from ftcli.planning.machine import GB
from ftcli.planning.plan import Plan

#: What can be given up, in the order in which it costs least: time, then precision, then freedom.
SAVINGS = (
    ("trainer.gradient_checkpointing=true",),
    ("model.quantization=nf4",),
    ("method=lora",),
    ("method=lora", "model.quantization=nf4"),
    ("trainer.gradient_checkpointing=true", "model.quantization=nf4"),
    ("trainer.gradient_checkpointing=true", "method=lora", "model.quantization=nf4"),
)
SHOWN = 3


@dataclass(frozen=True)
class Alternative:
    """Overrides under which the job fits, and the memory it then needs in bytes."""

    overrides: tuple[str, ...]
    total: int

    def __str__(self) -> str:
        return f"{' '.join(self.overrides)} ({self.total / GB:.1f} GB)"


def alternatives(plan: Plan) -> list[Alternative]:
    """Up to three ways to make the job fit: a smaller micro-batch, then what saves most cheaply."""
    found: list[Alternative] = []
    for way in _ways(plan):
        if not any(set(other.overrides) <= set(way.overrides) for other in found):
            found.append(way)
        if len(found) == SHOWN:
            break
    return found


def _ways(plan: Plan) -> Iterator[Alternative]:
    smaller = _smaller(plan, ())
    if smaller:
        yield smaller
    for saving in SAVINGS:
        other = _with(plan, saving)
        if other is None:
            continue
        if other.fits:
            yield Alternative(saving, other.memory.least)
        elif not smaller and (reduced := _smaller(other, saving)):
            yield reduced


def _smaller(plan: Plan, already: tuple[str, ...]) -> Alternative | None:
    """The largest micro-batch that fits and divides the batch, accumulated to the same batch."""
    trainer = plan.draft.trainer
    most = plan.estimate.largest_rows(plan.machine.memory) // plan.documents
    sizes = [n for n in range(1, trainer.batch_size) if trainer.batch_size % n == 0]
    for rows in sorted((n for n in sizes if n <= most), reverse=True):
        steps = trainer.gradient_accumulation_steps * trainer.batch_size // rows
        words = (f"trainer.batch_size={rows}", f"trainer.gradient_accumulation_steps={steps}")
        total = plan.estimate.accumulating().memory(rows * plan.documents).least
        if total <= plan.machine.memory:
            return Alternative((*already, *words), total)
    return None


def _with(plan: Plan, overrides: tuple[str, ...]) -> Plan | None:
    """The same job with further overrides; None where they change nothing or contradict it."""
    draft = plan.draft
    if any(_holds(plan, word) for word in overrides):
        return None
    try:
        composed = compose(draft.composed.job, [*draft.composed.overrides, *overrides])
        validate(composed)
        other = Plan(Draft(composed, draft.gpu), plan.gpu, plan.schedule)  # the data stay the same
        _ = other.estimate
    except UserError:
        return None
    return other


def _holds(plan: Plan, word: str) -> bool:
    """Whether the job says so already."""
    draft = plan.draft
    return {
        "trainer.gradient_checkpointing=true": draft.trainer.gradient_checkpointing,
        "model.quantization=nf4": draft.quantization != "none",
        "method=lora": draft.method.artefact == "adapter",
    }[word]


def verdict(plan: Plan, ways: Sequence[Alternative]) -> UserError | None:
    """None for a job that fits, else the one message: what it needs, what there is, what would fit.

    Args:
        ways: the alternatives.
    """
    if plan.fits:
        return None
    memory, machine = plan.memory, plan.machine
    sizes = memory.parts()
    sizes["optimizer"] -= memory.pageable
    parts = sorted(sizes.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts if size >= 0.05 * GB)
    what = f"needs about {memory.least / GB:.1f} GB, {machine.name} has "
    what += f"{machine.memory / GB:.1f}{'' if machine.assumed else ' free'} ({listed})."
    fix = "choose a smaller model, or lower data.max_length: nothing else makes it fit"
    if ways:
        fix = f"fits with {' or '.join(map(str, ways))}\n  {command(plan, ways[0])}"
    return UserError(what, where=plan.draft.source.path, fix=fix)


def command(plan: Plan, way: Alternative) -> str:
    """The line that trains with an alternative."""
    composed = plan.draft.composed
    return shlex.join(["ftcli", "train", shown(composed.job), *composed.overrides, *way.overrides])
