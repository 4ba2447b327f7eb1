"""List and copy what can be chosen: options of groups, jobs, recipes; list the runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ftcli.config import paths
from ftcli.config.paths import find_nearest
from ftcli.core.errors import UserError


@dataclass(frozen=True)
class Entry:
    """An option, job, recipe or run.

    Attributes:
        name: name as written on the command line.
        about: comment in the first line of its file; for a run, its status and scores.
        file: path of its file.
    """

    name: str
    about: str
    file: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields as a dict."""
        return asdict(self)


def list_kinds() -> dict[str, Callable[[], dict[str, Path]]]:
    """Return the lists of `ftcli ls`: kind -> function that gives name -> file."""
    kinds: dict[str, Callable[[], dict[str, Path]]] = {
        "jobs": _list_jobs, "recipes": paths.list_recipes, "runs": _list_runs,
    }  # fmt: skip
    for group in paths.list_groups():  # `runs` lists runs, not the options of the group `run`
        kinds.setdefault(paths.pluralize_group(group), partial(paths.list_options, group))
    return kinds


def list_entries(kind: str) -> list[Entry]:
    """List the entries of a kind; a group may be in the singular.

    Raises:
        UserError: there is no such kind.
    """
    kinds = list_kinds()
    group = paths.find_group(kind)
    name = paths.pluralize_group(group) if group else kind if kind in kinds else f"{kind}s"
    if name not in kinds:
        near = find_nearest(kind, kinds, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no list of {kind}.{hint}", fix="ftcli ls")
    about = _describe_outcome if name == "runs" else read_comment
    return [Entry(n, about(file), paths.format_path(file)) for n, file in kinds[name]().items()]


def _list_jobs() -> dict[str, Path]:
    jobs: dict[str, Path] = {}
    for folder in paths.build_search_path():
        jobs = {**paths.list_jobs(folder), **jobs}
    return dict(sorted(jobs.items()))


def _list_runs() -> dict[str, Path]:
    """Return the runs under `runs/`, the newest first."""
    files = [f for f in Path("runs").glob("*/*/config.yaml") if not f.parent.is_symlink()]
    files.sort(key=lambda f: f.parent.name, reverse=True)
    return {file.parent.as_posix(): file for file in files}


def read_comment(file: Path) -> str:
    """Return the comment that a YAML file starts with."""
    with open(file, encoding="utf-8") as stream:
        first = stream.readline().strip()
        while first.startswith("# @package"):
            first = stream.readline().strip()
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _describe_outcome(config: Path) -> str:
    """Describe the status and the scores of a run; `unfinished` where it has no result."""
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


def find_copy_source(name: str) -> Path:
    """Return the file of a job, recipe or option: `qlora_llama`, `bases/llama_mini`, `method/lora`, `lora`.

    Raises:
        UserError: there is none, or several groups have an option of that name.
    """
    name = name.removesuffix(".yaml")
    for prefix in ("configs/", "recipes/"):
        name = name.removeprefix(prefix)
    jobs = {**paths.list_recipes(), **paths.list_jobs(paths.configs_dir())}
    grouped = {
        f"{g}/{o}": file for g in paths.list_groups() for o, file in paths.list_options(g).items()
    }
    if name in jobs or name in grouped:
        return jobs.get(name) or grouped[name]
    matches = [full for full in grouped if full.partition("/")[2] == name]
    if len(matches) == 1:
        return grouped[matches[0]]
    if matches:
        raise UserError(
            f"'{name}' is in several groups: {', '.join(matches)}.", fix=f"ftcli cp {matches[0]}"
        )
    near = find_nearest(name, [*jobs, *grouped, *(n.partition("/")[2] for n in grouped)])
    hint = f" Closest: {', '.join(near)}." if near else ""
    raise UserError(f"there is no job, recipe or option '{name}'.{hint}", fix="ftcli ls")


def copy_config(name: str, destination: str, force: bool = False) -> tuple[Path, Path]:
    """Copy a packaged job, recipe or option to a file or into a folder; return source and target.

    Raises:
        UserError: no such name, or the target exists and `force` is off.
    """
    source, target = find_copy_source(name), Path(destination)
    if target.is_dir() or destination.endswith("/"):
        target = target / source.name
    elif not target.suffix:
        target = target.with_suffix(".yaml")
    if target.exists() and not force:
        raise UserError(f"{target} exists already.", fix="choose another name, or add --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return source, target
