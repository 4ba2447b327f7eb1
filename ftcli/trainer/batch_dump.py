"""Dump of the micro-batches of a step that was not finite: rows, text, tensors and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ftcli.core import atomic, disk, ranks
from ftcli.trainer.meter import NonFinite

if TYPE_CHECKING:
    from ftcli.core.run import Run

FOLDER = "nonfinite"


def dump_batch(run: Run, error: NonFinite) -> None:
    """Write the batch of an error to `nonfinite/step-000123/` of the run, once, and set `error.folder`.

    `rows.jsonl` has a line a row (number, file:line, the decoded text), `rank-0-batch-0.safetensors`
    the tensors of a micro-batch, `figures.json` the values that were not finite. Where figures were
    read later than the step, the micro-batches are no longer in memory and are built again from their
    rows; for an objective that samples answers these hold the prompts only.

    Must be called on all ranks; the first one writes the batches of all.
    """
    if error.dumped:
        return
    error.dumped = True
    own = error.batches or [run.build_loader().batch(rows) for rows in error.indices]
    gathered = ranks.gather_objects(run.accelerator, own)
    error.indices = [batch["indices"] for batches in gathered for batch in batches]
    if run.dir is None or not run.accelerator.is_main_process:
        return
    try:
        target = _find_unused_folder(run.dir.path / FOLDER, error.step)
        with atomic.write_folder(target) as unfinished:
            _write_files(unfinished, run, gathered, error)
    except Exception as refused:  # a disk error must not replace the error that is reported
        if disk.describe_fault(refused) is None:
            raise
        with suppress(OSError):
            run.dir.append_log(f"the batch of step {error.step} could not be written: {refused}")
    else:
        error.folder = target


def _find_unused_folder(root: Path, step: int) -> Path:
    """Return a folder that does not exist yet: a step number occurs again after a skipped batch."""
    root.mkdir(exist_ok=True)
    name = f"step-{step:06d}"
    names = [name, *(f"{name}-{count}" for count in range(2, 100))]
    return next((root / n for n in names if not (root / n).exists()), root / name)


def _write_files(
    folder: Path, run: Run, gathered: list[list[dict[str, Any]]], error: NonFinite
) -> None:
    from safetensors.torch import save_file

    lines = []
    for rank, batches in enumerate(gathered):
        for number, batch in enumerate(batches):
            tensors = {n: t.detach().cpu().clone().contiguous() for n, t in _iterate_tensors(batch)}
            save_file(tensors, folder / f"rank-{rank}-batch-{number}.safetensors")
            place = {"rank": rank, "batch": number}
            lines += [place | line for line in _describe_rows(run, batch)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    figures = {"step": error.step, "what": error.what, "value": error.value, "loss": error.loss}
    shown = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
             for k, v in figures.items()}  # fmt: skip
    atomic.write_json(folder / "figures.json", shown)


def _iterate_tensors(batch: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in batch.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _iterate_tensors(value, f"{prefix}{name}.")


def _describe_rows(run: Run, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield number and origin of each row with its text; texts that are not one a row come after all rows."""
    rows, texts = batch["indices"], list(_decode_rows(run, batch))
    apart = len(texts) != len(rows)
    for index, row in enumerate(rows):
        line = {"row": int(row), "origin": run.locate_example(row)}
        yield line if apart else line | {"text": texts[index]}
    if apart:
        yield from ({"text": text} for text in texts)


def _decode_rows(run: Run, batch: dict[str, Any]) -> Iterator[str]:
    """Yield the decoded documents of a micro-batch; nothing for batches without token ids."""
    ids = batch.get("input_ids")
    if ids is None or not hasattr(run.tokenizer, "decode"):
        return
    if "lengths" in batch:
        parts = ids[0, : int(batch["lengths"].sum())].split(batch["lengths"].tolist())
    else:
        mask = batch.get("attention_mask")
        parts = [row if mask is None else row[mask[i].bool()] for i, row in enumerate(ids)]
    for part in parts:
        yield str(run.tokenizer.decode(part))
