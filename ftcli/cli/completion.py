"""Shell completion of jobs, group options, keys and their values, run directories."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import typer

from ftcli.core.errors import UserError


def complete_jobs(incomplete: str) -> list[str]:
    """Complete packaged jobs and recipes by name, YAML files and folders by path."""
    from ftcli.config import paths

    names = [
        *paths.list_jobs(paths.configs_dir()),
        *paths.list_jobs(paths.user_dir()),
        *paths.list_recipes(),
    ]
    return _filter_prefix([*names, *_list_files(incomplete, ".yaml")], incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Complete run directories under `runs/`, and folders by path."""
    folders = [str(file.parent) for file in Path("runs").glob("*/*/config.yaml")]
    return _filter_prefix(
        [*sorted(folders, reverse=True), *_list_files(incomplete, None)], incomplete
    )


def complete_overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete `method=lora`, `method.r=`, and values of a key; empty where the job cannot be read."""
    incomplete, typed = _join_words(list(ctx.params.get("overrides") or []), incomplete)
    try:
        words = list(_suggest_overrides(ctx.params.get("job") or ctx.params.get("run"), incomplete))
    except (UserError, OSError, ValueError):
        words = []
    return [word[typed:] for word in _filter_prefix(words, incomplete)]


def _join_words(before: list[str], incomplete: str) -> tuple[str, int]:
    """Return the word being typed, and how many characters of it bash has split off at `=`."""
    if incomplete == "=" and before:
        return f"{before[-1]}=", len(before[-1]) + 1
    if len(before) >= 2 and before[-1] == "=":
        return f"{before[-2]}={incomplete}", len(before[-2]) + 1
    return incomplete, 0


def _suggest_overrides(job: str | None, incomplete: str) -> Iterator[str]:
    from ftcli.config import paths

    key, sign, _ = incomplete.partition("=")
    if sign and key in paths.list_groups():
        yield from (f"{key}={option}" for option in paths.list_options(key))
    elif sign:
        kind = dict(_list_keys(job, key)).get(key, Any)
        yield from (f"{key}={value}" for value in _list_values(kind))
    else:
        yield from (f"{group}=" for group in paths.list_groups())
        yield from (f"{name}=" for name, _ in _list_keys(job, incomplete))


def _list_keys(job: str | None, incomplete: str) -> Iterator[tuple[str, Any]]:
    """Yield keys of the job with their types, for groups that match the typed word."""
    from ftcli.config import compose
    from ftcli.config.job import TARGET, read_keys

    yield "seed", int
    if job is None:
        return
    group = incomplete.split(".")[0]
    for name, node in compose(job).config.items():
        if name.startswith(group) and isinstance(node, dict) and TARGET in node:
            yield from ((f"{name}.{k}", p.type) for k, p in read_keys(node).parameters.items())


def _list_values(kind: Any) -> Iterable[str]:
    """Return the words that a type allows."""
    if kind is bool:
        return ["true", "false"]
    if typing.get_origin(kind) is Literal:
        return [str(value) for value in typing.get_args(kind)]
    return [value for member in typing.get_args(kind) for value in _list_values(member)]


def _list_files(incomplete: str, suffix: str | None) -> list[str]:
    """Return folders, and files with the suffix, in the folder of the typed path."""
    folder = Path(incomplete or ".") if incomplete.endswith("/") else Path(incomplete).parent
    if not folder.is_dir():
        return []
    matches = [f"{p}/" for p in folder.iterdir() if p.is_dir() and p.name[0] != "."]
    if suffix:
        matches += [str(p) for p in folder.iterdir() if p.suffix == suffix]
    return sorted(matches)


def _filter_prefix(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]


#: Name of a verb's argument -> what completes it.
COMPLETERS: dict[str, Callable[..., Any]] = {
    "job": complete_jobs, "config": complete_jobs, "overrides": complete_overrides, "run": complete_runs, "runs": complete_runs, "path": complete_runs,
}  # fmt: skip
