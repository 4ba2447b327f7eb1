"""How long a run is: steps, epochs and tokens, from the lengths of the real data where it is here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ftcli.core.errors import UserError
from ftcli.planning.draft import Draft

MOST_ROWS = 50_000  # a larger source is judged by its beginning


@dataclass(frozen=True)
class Schedule:
    """What is known of a run's length; None where the data or the tokenizer is not here.

    Attributes:
        rows: documents of the training split.
        batches: micro-batches of an epoch.
        tokens: of an epoch.
        supervised: of these, learned.
        longest: tokens of the longest document, cut at `data.max_length`.
        fullest: tokens of the fullest micro-batch of the first epoch, padding counted.
        notes: why figures are missing, or what they rest on.
    """

    steps: int | None = None
    epochs: float | None = None
    rows: int | None = None
    batches: int | None = None
    tokens: int | None = None
    supervised: int | None = None
    longest: int | None = None
    fullest: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def total_tokens(self) -> int | None:
        """Tokens of the whole run."""
        if self.tokens is None or self.epochs is None:
            return None
        return round(self.tokens * self.epochs)


def schedule(draft: Draft) -> Schedule:
    """The length of a job's run.

    Raises:
        UserError: the data are here and cannot be used.
    """
    trainer = draft.trainer
    try:
        rows, whole = _rows(draft)
    except UserError as error:
        if not draft.remote:
            raise
        return Schedule(steps=trainer.max_steps, notes=(f"the data are unknown: {error.what}",))
    known = Schedule(rows=rows, batches=_batches(draft, rows))
    try:
        _ = draft.tokenizer
    except UserError as error:
        known = replace(known, notes=(f"token lengths are unknown: {error.what}",))
    else:
        known = _measured(draft, None if whole else rows)
    return _with_steps(known, trainer) if whole else _of_beginning(known, trainer, rows)


def _of_beginning(known: Schedule, trainer: Any, rows: int) -> Schedule:
    """What the first rows of a large source say: lengths, but not how many rows there are."""
    note = f"more than {rows:,} rows: lengths are those of the first {rows:,}"
    return Schedule(
        steps=trainer.max_steps,
        longest=known.longest,
        fullest=known.fullest,
        notes=(*known.notes, note),
    )


def _rows(draft: Draft) -> tuple[int, bool]:
    """Usable rows of the training split, and whether these are all of them."""
    counted = sum(1 for _ in islice(draft.data.examples("train"), MOST_ROWS + 1))
    return min(counted, MOST_ROWS), counted <= MOST_ROWS


def _batches(draft: Draft, rows: int) -> int | None:
    """Micro-batches of an epoch without lengths; bins cannot be counted so."""
    return None if draft.data.packing == "bins" else math.ceil(rows / draft.trainer.batch_size)


def _measured(draft: Draft, limit: int | None = None) -> Schedule:
    """Counts from the tokens themselves, prepared now or taken from the cache."""
    data = draft.data if limit is None else replace(draft.data, limit=limit)
    seed = int(draft.composed.config.get("seed", 0))
    size = draft.trainer.batch_size
    tokens = data.prepare("train", draft.tokenizer)
    batches = data.loader("train", draft.tokenizer, size, seed=seed).batches(0)
    return Schedule(
        rows=len(tokens),
        batches=len(batches),
        tokens=int(tokens.lengths.sum()),
        supervised=tokens.meta.get("supervised"),
        longest=int(tokens.lengths.max()),
        fullest=max(_width([int(tokens.lengths[row]) for row in rows], data) for rows in batches),
    )


def _width(lengths: list[int], data: Any) -> int:
    """Tokens that a micro-batch of documents takes: padded to the longest, or laid end to end."""
    if data.packing == "none":
        return len(lengths) * max(lengths)
    from ftcli.models.attention import ALIGNMENT

    return math.ceil(sum(lengths) / ALIGNMENT) * ALIGNMENT


def _with_steps(known: Schedule, trainer: Any) -> Schedule:
    """Steps from epochs or epochs from steps, as the trainer counts them."""
    width = trainer.gradient_accumulation_steps
    if known.batches is None:
        return replace(known, steps=trainer.max_steps, epochs=_asked(trainer))
    if trainer.max_steps is None:
        epochs = trainer.epochs or 1.0
        return replace(known, steps=math.ceil(epochs * known.batches / width), epochs=epochs)
    epochs = round(trainer.max_steps * width / known.batches, 3)
    return replace(known, steps=trainer.max_steps, epochs=epochs)


def _asked(trainer: Any) -> float | None:
    return trainer.epochs if trainer.max_steps is None else None
