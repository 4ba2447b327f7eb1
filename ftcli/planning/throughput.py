"""Tokens a second of earlier runs of the same kind on the same hardware: a time is never invented."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

#: Settings that must be equal for another run's speed to say something about this one.
DECISIVE = (
    "model.path", "model.quantization", "model.dtype", "model.attention", "method", "objective",
    "trainer.precision", "trainer.gradient_checkpointing", "trainer.compile", "data.packing",
    "data.max_length",
)  # fmt: skip


def measured(config: Mapping[str, Any], root: str | Path) -> tuple[float, int] | None:
    """Median tokens a second of finished runs under `root`, and how many; None without any.

    Args:
        config: of the job that is planned.
        root: the folder that holds runs as <name>/<time>/.
    """
    alike = [run for run in _runs(Path(root)) if _alike(run, config)]
    if not alike:
        return None
    from ftcli.run.record import environment

    here = _hardware(environment())
    speeds = [
        _read(r / "result.json")["tok_s"] for r in alike if _hardware(_read(r / "env.json")) == here
    ]
    return (median(speeds), len(speeds)) if speeds else None


def _runs(root: Path) -> Iterator[Path]:
    """Folders of runs that came to their end and measured a speed."""
    for file in sorted(root.glob("*/*/result.json")):
        result = _read(file)
        if (
            not file.parent.is_symlink()
            and result.get("status") == "finished"
            and "tok_s" in result
        ):
            yield file.parent


def _alike(folder: Path, config: Mapping[str, Any]) -> bool:
    from omegaconf import OmegaConf

    try:
        other = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (OSError, ValueError):
        return False
    return all(_value(other, key) == _value(config, key) for key in DECISIVE)


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _hardware(environment: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return environment.get("processor"), environment.get("gpus"), environment.get("threads")


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
