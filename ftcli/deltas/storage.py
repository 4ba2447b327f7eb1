"""Deltas on disk: a folder with tensors, record, and the small files of the finetuned model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ftcli.core import atomic
from ftcli.core.errors import UserError
from ftcli.deltas.artefact import CONFIG_FILES, Artefact
from ftcli.deltas.delta import Delta
from ftcli.deltas.weights import FileWeights, LazyWeights, write_weights

RECORD, TENSORS, TERNARY, FILES = "delta.json", "delta.safetensors", "delta.ternary", "source"


def is_delta(path: str | Path) -> bool:
    """Whether a folder holds a saved delta."""
    folder = Path(path)
    return any((folder / name).is_file() for name in (TENSORS, TERNARY))


def load_delta(path: str | Path) -> Delta:
    """Load a saved delta, plain or ternary.

    Raises:
        UserError: the record is missing or not readable.
    """
    folder = Path(path)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no {RECORD} that can be read.", fix="take it again"
        ) from error
    source = Artefact.open(folder / FILES)
    history = record["history" if "history" in record else "said"]  # "said" in files of 0.1.0
    common: dict[str, Any] = {
        "kind": record["kind"], "base": record["base"], "history": tuple(history),
        "dtype": getattr(torch, record["dtype"]), "source": source, "origin": record["origin"],
    }  # fmt: skip
    if (folder / TERNARY).is_file():
        from ftcli.deltas import ternary

        coded = ternary.decode((folder / TERNARY).read_bytes())
        return Delta(shapes=coded.shapes, read=coded.tensor, **common)
    weights = FileWeights(folder)
    shapes = {name: shape for name, (shape, _) in weights.layout.items()}
    return Delta(shapes=shapes, read=lambda name: weights[name].double(), **common)


def save_delta(
    delta: Delta,
    target: str | Path,
    dtype: torch.dtype = torch.float32,
    coded: bytes | None = None,
    force: bool = False,
    at: Mapping[str, str] | None = None,
    base: Artefact | None = None,
) -> int:
    """Write a delta; returns the bytes of its tensors.

    Args:
        dtype: dtype of the tensors on disk.
        coded: bytes of a ternary delta, written instead of tensors.
        at: folders of `base` and `run`, used when the delta is applied.
        base: artefact whose equal small files are not copied.

    Raises:
        UserError: the folder exists and has content (without `force`).
    """
    target = prepare_target(target, force)
    with atomic.write_folder(target) as unfinished:
        if coded is None:
            layout = {name: (shape, dtype) for name, shape in delta.shapes.items()}
            size = write_weights(unfinished / TENSORS, LazyWeights(layout, delta.read))
        else:
            size = (unfinished / TERNARY).write_bytes(coded)
        copy_files(delta.source, unfinished / FILES, base)
        atomic.write_json(unfinished / RECORD, describe_delta(delta) | {"places": dict(at or {})})
    return size


def read_places(path: str | Path) -> dict[str, str]:
    """Return the folders of base and run of a saved delta."""
    return json.loads((Path(path) / RECORD).read_text(encoding="utf-8")).get("places", {})


def describe_delta(delta: Delta) -> dict[str, Any]:
    """Return the record of a delta: kind, base, dtype, origin, history."""
    return {
        "kind": delta.kind,
        "base": delta.base,
        "dtype": str(delta.dtype).removeprefix("torch."),
        "origin": delta.origin,
        "history": list(delta.history),
    }


def copy_files(source: Artefact | None, target: Path, base: Artefact | None) -> None:
    """Copy configuration and tokenizer of a model or adapter, except files equal to the base's."""
    target.mkdir()
    known = {file.name: file for file in (base.small_files if base is not None else ())}
    for file in source.small_files if source is not None else ():
        base_file = known.get(file.name)
        if (
            file.name in CONFIG_FILES
            or base_file is None
            or base_file.read_bytes() != file.read_bytes()
        ):
            shutil.copy(file, target / file.name)


def prepare_target(target: str | Path, force: bool) -> Path:
    """Return the folder to write, after creating its parent.

    Raises:
        UserError: it exists with content (without `force`), or ftcli delta did not write it.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if not force:
            raise UserError(f"{target} exists already.", where="--to", fix="--force replaces it")
        if not (target / RECORD).is_file():
            raise UserError(
                f"{target} was not written by ftcli delta, so --force leaves it alone.",
                where="--to",
                fix="name a new folder",
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
