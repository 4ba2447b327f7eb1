"""Comparison of runs: their scores, their costs, and the keys in which their configs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftcli.config.job import KEYS_NOT_PASSED
from ftcli.config.renamed import update_old_config
from ftcli.core.errors import UserError
from ftcli.loggers.base import flatten

COSTS = (
    "status",
    "step",
    "seconds",
    "tok_s",
    "peak_memory_gb",
    "trainable_parameters",
    "adapter_bytes",
)
NOT_CHOICES = ("run.name", "run.dir")


@dataclass
class Comparison:
    """Columns are runs; `scores`, `costs` and `config` map a row's name to one value a run."""

    runs: list[str]
    scores: dict[str, list[Any]]
    costs: dict[str, list[Any]]
    config: dict[str, list[Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, for --json."""
        return asdict(self)


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Compare runs by their files; of the configs only keys whose values differ are kept.

    Raises:
        UserError: a path is not a run directory.
    """
    folders = [Path(path) for path in paths]
    for folder in folders:
        if not (folder / "config.yaml").exists():
            raise UserError(f"{folder} is not a run: it has no config.yaml.", fix="ftcli ls runs")
    results = [_json(folder / "result.json") for folder in folders]
    configs = [_config(folder) for folder in folders]
    rows = _rows(configs)
    return Comparison(
        runs=[str(path) for path in paths],
        scores=_rows([_scores(f, r) for f, r in zip(folders, results, strict=True)]),
        costs=_rows([{key: r[key] for key in COSTS if key in r} for r in results]),
        config={key: values for key, values in rows.items() if any(v != values[0] for v in values)},
    )


def _rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Transpose dicts, one a run, into rows, one a key; None where a run has no such key."""
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def _scores(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores at the end of training, then those measured later by `ftcli eval`."""
    scores = {
        name.removeprefix("eval."): value
        for name, value in (result.get("metrics") or {}).items()
        if name.startswith("eval.")
    }
    for path in sorted((folder / "eval").glob("*.json")):
        later = _json(path)
        at = "" if later["checkpoint"] == "last" else f" @ {later['checkpoint']}"
        scores |= {f"{later['split']}.{name}{at}": v for name, v in later["scores"].items()}
    return scores


def _config(folder: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    return {
        key: value
        for key, value in flatten(update_old_config(plain))
        if key not in NOT_CHOICES and not {*KEYS_NOT_PASSED} & {*key.split(".")}
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
