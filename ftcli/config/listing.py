"""What there is to choose from: group options, jobs, recipes, and the runs that were made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ftcli.config import paths
from ftcli.config.nearest import nearest
from ftcli.core.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One thing that can be chosen.

    Attributes:
        name: as it is written on the command line.
        about: the comment in the first line of its file; for a run, how it ended.
        file: where it is.
    """

    name: str
    about: str
    file: str

    def as_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


def kinds() -> dict[str, Callable[[], dict[str, Path]]]:
    """What `ftcli ls` can list -> name and file of each."""
    found: dict[str, Callable[[], dict[str, Path]]] = {
        "jobs": _jobs, "recipes": paths.recipes, "runs": _runs,
    }  # fmt: skip
    for group in paths.groups():  # `runs` are the runs, not the options of the group `run`
        found.setdefault(paths.plural(group), partial(paths.options, group))
    return found


def entries(kind: str) -> list[Entry]:
    """Everything of a kind; a group may be given in the singular too.

    Raises:
        UserError: there is no such kind.
    """
    known = kinds()
    group = paths.group_of(kind)
    name = paths.plural(group) if group else kind if kind in known else f"{kind}s"
    if name not in known:
        near = nearest(kind, known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no list of {kind}.{hint}", fix="ftcli ls")
    about = _outcome if name == "runs" else comment
    return [Entry(n, about(file), paths.shown(file)) for n, file in known[name]().items()]


def _jobs() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in paths.search_path():
        found = {**paths.jobs(folder), **found}
    return dict(sorted(found.items()))


def _runs() -> dict[str, Path]:
    """Runs under `runs/`, the newest first."""
    files = [f for f in Path("runs").glob("*/*/config.yaml") if not f.parent.is_symlink()]
    files.sort(key=lambda f: f.parent.name, reverse=True)
    return {file.parent.as_posix(): file for file in files}


def comment(file: Path) -> str:
    """The comment that a YAML file starts with."""
    with open(file, encoding="utf-8") as stream:
        first = stream.readline().strip()
        while first.startswith("# @package"):
            first = stream.readline().strip()
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _outcome(config: Path) -> str:
    """How a run ended and what it scored; `unfinished` where it has no result yet."""
    try:
        result: dict[str, Any] = json.loads((config.parent / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        return "unfinished"
    scores = result.get("metrics") or {}
    parts = [str(result.get("status", "unknown"))]
    parts += [
        f"{name.removeprefix('eval.')} {value:.4g}"
        for name, value in scores.items()
        if isinstance(value, (int, float))
    ]
    return ", ".join(parts)
