"""Who set each value: the files in the order in which Hydra merged them, then the command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ftcli.config import marks
from ftcli.config.composed import COMMAND_LINE, Composed, Origin, leaves
from ftcli.config.overrides import Word
from ftcli.config.primary import NAME, Primary


def find(
    defaults: Iterable[Any], source: Primary, words: list[Word], folders: list[Path]
) -> dict[str, Origin]:
    """Dotted key -> who set it last, in the order in which Hydra merged the files."""
    found: dict[str, Origin] = {}
    for default in defaults:
        name = default.config_path
        if name.startswith("hydra/"):
            continue
        if name == NAME:
            kept = {
                key: origin
                for key, origin in marks.marks(source.path).items()
                if key.split(".")[0] not in source.replaced
            }
            found.update(kept)
        elif file := _file(name, folders):
            prefix = f"{default.package}." if default.package else ""
            found[default.package] = Origin(file)
            found.update({prefix + key: origin for key, origin in marks.marks(file).items()})
    for word in words:
        if not word.picks and word.kind != "delete":
            _set(found, word.key, word.value)
    return found


def jobs(defaults: Iterable[Any], job: Path, folders: list[Path]) -> frozenset[Path]:
    """The job's file and those of the jobs it starts from: what is merged into no group."""
    files = [_file(d.config_path, folders) for d in defaults if not d.package]
    return frozenset([job, *(file for file in files if file)])


def _set(found: dict[str, Origin], key: str, value: Any) -> None:
    found[key] = COMMAND_LINE
    parent = key.rpartition(".")[0]
    while parent and parent not in found:  # a mapping that no file opened
        found[parent] = COMMAND_LINE
        parent = parent.rpartition(".")[0]
    if isinstance(value, dict):
        found.update({inner: COMMAND_LINE for inner, _ in leaves({key: value})})


def _file(name: str, folders: list[Path]) -> Path | None:
    name = name if name.endswith(".yaml") else f"{name}.yaml"
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def nearest(found: dict[str, Origin], key: str, job: Path) -> str:
    """Who set a key, or the mapping it would stand in."""
    while key and key not in found:
        key = key.rpartition(".")[0]
    return str(found.get(key, Origin(job)))


def attach(plain: dict[str, Any], found: dict[str, Origin], job: Path) -> Composed:
    """Keep the origins of what is in the configuration, leaves and mappings apart."""
    keys = {key for key, _ in leaves(plain)}
    sections = {key: origin for key, origin in found.items() if key not in keys}
    composed = Composed(plain, {}, job, sections=sections)
    items = {k.rpartition(".")[0] for k, o in found.items() if o == COMMAND_LINE}
    for key, value in leaves(plain):
        if isinstance(value, list) and key in items:  # `metrics.0=bleu`
            composed.origins[key] = COMMAND_LINE
        else:
            composed.origins[key] = found.get(key) or composed.origin(key)
    return composed
