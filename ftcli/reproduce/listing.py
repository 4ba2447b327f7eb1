"""Filters of `ftcli ls recipes`: by measured memory and by verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftcli.config import paths
from ftcli.config.listing import Entry
from ftcli.core.errors import UserError

NONE = "none"  # of the verdicts: not judged yet
_SIZE = re.compile(r"^(<=?|>=?)\s*([\d.]+)\s*GB$", re.IGNORECASE)


def filter_recipes(
    kind: str,
    entries: Sequence[Entry],
    needs: str | None = None,
    verdict: str | None = None,
) -> list[Entry]:
    """Return the entries that pass the filters.

    Args:
        needs: a bound on the measured peak memory of the runs, such as "<2GB"; recipes without
            measurements do not pass.
        verdict: a verdict that some claim of the recipe has, or "none" for recipes not judged yet.

    Raises:
        UserError: a filter does not fit the kind, or cannot be read.
    """
    options = [f"--{k}" for k, v in (("needs", needs), ("verdict", verdict)) if v]
    if options and kind not in ("recipe", "recipes"):
        raise UserError(
            f"{options[0]} filters recipes, not {kind}.", fix=f"ftcli ls recipes {options[0]} ..."
        )
    bound = _parse_bound(needs) if needs else None
    if verdict:
        _check_verdict(verdict)
    return [
        entry
        for entry in entries
        if (bound is None or bound(_read_peak_memory(entry)))
        and (verdict is None or verdict in _read_verdicts(entry))
    ]


def _parse_bound(text: str) -> Callable[[float | None], bool]:
    match = _SIZE.match(text.strip())
    if match is None:
        raise UserError(f"{text!r} is no bound on memory.", where="--needs", fix="--needs '<2GB'")
    sign, size = match[1], float(match[2])
    if sign.startswith("<"):
        return lambda memory: (
            memory is not None and (memory < size or sign == "<=" and memory == size)
        )
    return lambda memory: memory is not None and (memory > size or sign == ">=" and memory == size)


def _check_verdict(verdict: str) -> None:
    from ftcli.reproduce.judge import VERDICTS

    if verdict not in (*VERDICTS, NONE):
        known = ", ".join((*VERDICTS, NONE))
        raise UserError(f"{verdict!r} is no verdict.", where="--verdict", fix=f"one of: {known}")


def _read_stored(entry: Entry) -> dict[str, Any]:
    from ftcli.config import recipe_reading as reading
    from ftcli.reproduce.verdicts import load_verdicts

    path = paths.find_formatted_path(entry.file) or Path(entry.file)
    return load_verdicts(reading.read_recipe(path)) if reading.is_recipe(path) else {}


def _read_verdicts(entry: Entry) -> set[str]:
    kept = _read_stored(entry).get("verdicts", {})
    return {record["verdict"] for record in kept.values()} or {NONE}


def _read_peak_memory(entry: Entry) -> float | None:
    """Return the highest peak memory of the small runs, GB; None where it was not measured."""
    figures = _read_stored(entry).get("variants", {}).get("small", {}).get("figures", {}).values()
    peaks = [v["peak_memory_gb"] for v in figures if "peak_memory_gb" in v]
    return max(peaks) if peaks else None
