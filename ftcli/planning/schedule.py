"""Length of a run: steps, epochs and tokens of the real data, and the speed of earlier runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data.loader import count_steps
from ftcli.planning.meta_run import MetaRun

MOST_ROWS = 50_000  # of a larger source only so many rows are read
#: Settings on which speed depends: only runs with equal values are compared.
SPEED_KEYS = (
    "model.path", "model.quantization", "model.dtype", "model.attention", "method", "objective",
    "trainer.precision", "trainer.gradient_checkpointing", "trainer.compile", "data.packing",
    "data.max_length",
)  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """The length of a run, as far as it is known; None where data or tokenizer are not here.

    Attributes:
        rows: documents of the training split.
        batches: micro-batches of an epoch.
        tokens: tokens of an epoch.
        supervised: tokens of an epoch that are learned.
        longest: tokens of the longest document, cut at `data.max_length`.
        fullest: tokens of the fullest micro-batch of the first epoch, padding counted.
        notes: why figures are missing, or what they are based on.
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


def compute_schedule(meta_run: MetaRun) -> Schedule:
    """Compute the length of a job's run.

    Raises:
        UserError: the data are on this machine and cannot be used.
    """
    trainer = meta_run.trainer
    try:
        rows, whole = _count_rows(meta_run)
    except UserError as error:
        if not meta_run.remote:
            raise
        return Schedule(steps=trainer.max_steps, notes=(f"the data are unknown: {error.what}",))
    known = Schedule(rows=rows, batches=_count_batches(meta_run, rows))
    try:
        _ = meta_run.tokenizer
    except UserError as error:
        known = replace(known, notes=(f"token lengths are unknown: {error.what}",))
    else:
        known = _measure_tokens(meta_run, None if whole else rows)
    return _add_steps(known, trainer) if whole else _from_first_rows(known, trainer, rows)


def _from_first_rows(known: Schedule, trainer: Any, rows: int) -> Schedule:
    """Return what the first rows of a large source show: lengths, but not the number of rows."""
    note = f"more than {rows:,} rows: lengths are those of the first {rows:,}"
    return Schedule(
        steps=trainer.max_steps,
        longest=known.longest,
        fullest=known.fullest,
        notes=(*known.notes, note),
    )


def _count_rows(meta_run: MetaRun) -> tuple[int, bool]:
    """Count the usable rows of the training split; False where there are more than `MOST_ROWS`."""
    data = meta_run.data
    counted = sum(1 for _ in islice(data.examples("train"), MOST_ROWS + 1))
    total = getattr(data, "rows_per_epoch", None)
    if total is not None and counted <= MOST_ROWS:
        return total, True
    return min(counted, MOST_ROWS), counted <= MOST_ROWS


def _count_batches(meta_run: MetaRun, rows: int) -> int | None:
    """Count the micro-batches of an epoch without lengths; None for bins, which need them."""
    return (
        None if meta_run.data.packing == "bins" else math.ceil(rows / meta_run.trainer.batch_size)
    )


def _measure_tokens(meta_run: MetaRun, limit: int | None = None) -> Schedule:
    """Count the tokens themselves, prepared now or taken from the cache."""
    data = meta_run.data if limit is None else replace(meta_run.data, limit=limit)
    seed = int(meta_run.composed.config.get("seed", 0))
    size = meta_run.trainer.batch_size
    tokenized = data.prepare("train", meta_run.tokenizer)
    batches = data.loader("train", meta_run.tokenizer, size, seed=seed).list_batch_indices(0)
    read = np.fromiter(chain.from_iterable(batches), dtype=np.int64)
    return Schedule(
        rows=len(read),
        batches=len(batches),
        tokens=int(tokenized.lengths[read].sum()),
        supervised=_count_supervised(tokenized, read),
        longest=int(tokenized.lengths.max()),
        fullest=max(
            _batch_tokens([int(tokenized.lengths[row]) for row in rows], data) for rows in batches
        ),
    )


def _count_supervised(tokenized: Any, rows: np.ndarray) -> int | None:
    """Return the learned tokens of documents, by the means of their sources."""
    if not hasattr(tokenized, "sizes"):  # images and sounds
        return tokenized.meta.get("supervised")
    counts = np.bincount(tokenized.find_sources(rows), minlength=len(tokenized.sizes))
    means = [
        meta["supervised"] / size
        for meta, size in zip(tokenized.metas, tokenized.sizes, strict=True)
    ]
    return round(float(counts @ np.asarray(means)))


def _batch_tokens(lengths: list[int], data: Any) -> int:
    """Return the tokens of a micro-batch of documents: padded to the longest, or end to end."""
    if data.packing == "none":
        return len(lengths) * max(lengths)
    from ftcli.models.attention_layout import ALIGNMENT

    return math.ceil(sum(lengths) / ALIGNMENT) * ALIGNMENT


def _add_steps(known: Schedule, trainer: Any) -> Schedule:
    """Add steps from epochs, or epochs from steps, as the trainer counts them."""
    width = trainer.gradient_accumulation_steps
    if known.batches is None:
        return replace(known, steps=trainer.max_steps, epochs=_requested_epochs(trainer))
    if trainer.max_steps is None:
        epochs = trainer.epochs or 1.0
        steps = count_steps(known.batches, epochs, width)
        return replace(known, steps=steps, epochs=epochs)
    epochs = round(trainer.max_steps / math.ceil(known.batches / width), 3)
    return replace(known, steps=trainer.max_steps, epochs=epochs)


def _requested_epochs(trainer: Any) -> float | None:
    return trainer.epochs if trainer.max_steps is None else None


def find_speed(config: Mapping[str, Any], root: str | Path) -> tuple[float, int] | None:
    """Return the median tokens/s of comparable finished runs under `root` and their number, or None.

    Args:
        config: configuration of the job that is planned; runs on other hardware do not count.
        root: the folder that holds runs as <name>/<time>/.
    """
    comparable = [run for run in _finished_runs(Path(root)) if _is_comparable(run, config)]
    if not comparable:
        return None
    from ftcli.run.record import environment

    here = _hardware(environment())
    speeds = [
        _read_json(run / "result.json")["tok_s"]
        for run in comparable
        if _hardware(_read_json(run / "env.json")) == here
    ]
    return (median(speeds), len(speeds)) if speeds else None


def _finished_runs(root: Path) -> Iterator[Path]:
    """Yield the folders of finished runs that measured a speed."""
    for file in sorted(root.glob("*/*/result.json")):
        result = _read_json(file)
        if (
            not file.parent.is_symlink()
            and result.get("status") == "finished"
            and "tok_s" in result
        ):
            yield file.parent


def _is_comparable(folder: Path, config: Mapping[str, Any]) -> bool:
    from omegaconf import OmegaConf

    try:
        other = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (OSError, ValueError):
        return False
    return all(_value(other, key) == _value(config, key) for key in SPEED_KEYS)


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _hardware(environment: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return environment.get("processor"), environment.get("gpus"), environment.get("threads")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
