"""Write results of delta arithmetic as a run, a model or an adapter folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core import atomic
from ftcli.deltas.artefact import Kind
from ftcli.deltas.storage import RECORD, prepare_target
from ftcli.deltas.weights import FileWeights, LazyWeights, write_weights

RECORDS = ("data.json", "env.json", "overrides.yaml", "sources.yaml", "command.txt")
FILE = {"model": "model.safetensors", "adapter": "adapter_model.safetensors"}
FULL = {"_target_": "ftcli.methods.full.Full"}


@dataclass(frozen=True)
class Result:
    """Tensors to write, with their configuration and tokenizer files.

    Attributes:
        files: lists of small files to copy; later lists overwrite earlier ones.
        run: the source run directory; the result is then a run directory too, which `ftcli chat` opens.
        base: new path of the model in the config of that run, where it changes.
        config: changed keys of config.json or adapter_config.json.
        record: content of delta.json.
    """

    kind: Kind
    tensors: LazyWeights | FileWeights
    files: tuple[list[Path], ...]
    run: Path | None = None
    base: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


def write_result(result: Result, target: str | Path, force: bool = False) -> dict[str, Any]:
    """Write the folder atomically; returns `folder` and `bytes` of the weights.

    Raises:
        UserError: the folder exists and has content (without `force`).
    """
    target = prepare_target(target, force)
    with atomic.write_folder(target) as unfinished:
        inner = unfinished if result.run is None else unfinished / result.kind
        size = _write_folder(result, inner)
        if result.run is not None:
            _write_run(result, result.run, unfinished, size)
        atomic.write_json(unfinished / RECORD, dict(result.record))
    return {"folder": str(target), "bytes": size}


def _write_folder(result: Result, folder: Path) -> int:
    """Write a folder in the layout of transformers or PEFT; returns the bytes of the weights."""
    folder.mkdir(exist_ok=True)
    for files in result.files:
        for file in files:
            shutil.copy(file, folder / file.name)
    if result.config:
        name = "config.json" if result.kind == "model" else "adapter_config.json"
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        atomic.write_json(folder / name, config | dict(result.config))
    return write_weights(folder / FILE[result.kind], result.tensors)


def _write_run(result: Result, source: Path, folder: Path, size: int) -> None:
    """Write configuration, record and one checkpoint beside the weights."""
    from ftcli.config import build
    from ftcli.core.base_model import FILE as BASE
    from ftcli.core.base_model import record_base
    from ftcli.core.run_dir import RunDir
    from ftcli.run.record import write_config
    from ftcli.trainer import manifest

    run_dir, before = RunDir(folder), RunDir(source).result()
    config = build_config(source, result.kind, result.base)
    write_config(run_dir, config)
    for name in RECORDS:
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    if result.base is not None:
        record_base(folder, build(config["model"], "model", None))
    elif (source / BASE).exists():
        shutil.copy(source / BASE, folder / BASE)
    step = int(before.get("step", 0))
    checkpoint = run_dir.checkpoints / f"step-{step:06d}"
    checkpoint.mkdir(parents=True)
    _write_checkpoint(result, config, folder, checkpoint)
    manifest.write_manifest(checkpoint)
    atomic.write_link(run_dir.checkpoints / "last", checkpoint.name)
    result_fields = {
        "status": "finished",
        "step": step,
        "seed": config.get("seed", 0),
        "run": str(source),
    }
    atomic.write_json(
        folder / "result.json", result_fields | {"adapter_bytes": size, "metrics": {}}
    )


def build_config(source: Path, kind: Kind, base: str | None = None) -> dict[str, Any]:
    """Return a run's configuration for weights of this kind; whole models get `method: full`."""
    from ftcli.config import load

    config = dict(load(source / "config.yaml").config)
    if base is not None:
        kept = {key: value for key, value in config["model"].items() if key != "gguf_file"}
        config["model"] = {**kept, "path": base}
    if kind == "model":
        config["method"] = FULL
        config["model"] = {**config["model"], "quantization": "none"}
        config.pop("trainable", None)
    return config


def _write_checkpoint(
    result: Result, config: dict[str, Any], folder: Path, checkpoint: Path
) -> None:
    """Write the tensors as a checkpoint, under the names that the method uses."""
    inner = folder / result.kind
    if result.kind == "adapter":
        os.link(inner / FILE["adapter"], checkpoint / "adapter.safetensors")
        shutil.copy(inner / "adapter_config.json", checkpoint / "adapter_config.json")
        return
    from ftcli.run.build import build_run
    from ftcli.trainer.checkpoint_io import save_weights

    model = {**config["model"], "path": str(inner), "architecture": None}
    model.pop("gguf_file", None)
    run = build_run({**config, "model": model, "logger": {}})
    run.load_model()
    save_weights(checkpoint, run)
