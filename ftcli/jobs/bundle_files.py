"""Files of this machine that a configuration names, and the configuration by which another machine finds them."""

from __future__ import annotations

import copy
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError
from ftcli.data.readers import can_read

#: Groups and keys whose paths say where this machine keeps things, not what a run reads.
PLACES = ("run", "logger", "data.cache_dir", "launcher")
BASE_KEYS = ("model.path", "model.tokenizer")
#: Keys whose values may be paths without separator and suffix.
PATH_KEYS = ("path", "tokenizer", "validation", "test")
DATA, BASE = "data", "base"  # folders of the bundle
MAGIC = "*?["


@dataclass
class LocalFiles:
    """The files that a bundle packs, and those that it only names.

    Attributes:
        config: the configuration with paths relative to the unpacked folder.
        packed: name in the bundle -> file of this machine.
        named: key -> path that the other machine must have itself.
    """

    config: dict[str, Any]
    packed: dict[str, Path] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)


def collect_files(
    config: dict[str, Any], where: Path, with_data: bool = True, with_base: bool = False
) -> LocalFiles:
    """Return the local files of a resolved configuration, and that configuration made portable.

    Args:
        where: folder in which relative paths begin.
        with_data, with_base: whether data, and the folder of the base model, are packed.

    Raises:
        UserError: a file that the run has read is not there any more.
    """
    found = LocalFiles(copy.deepcopy(config))
    for key, path in list(_list_paths(config, where)):
        is_base = key in BASE_KEYS
        if (is_base and not with_base) or (not is_base and not with_data):
            found.named[key] = path
            continue
        folder = f"{BASE if is_base else DATA}/{key.rpartition('.')[2]}"
        root, pattern = _split_pattern(where / Path(path).expanduser())
        files = [root] if root.is_file() else _list_files(root, pattern)
        if key.startswith("data.") and str(config["data"].get("_target_")).endswith(".Data"):
            files = [file for file in files if can_read(file)]  # what lies beside them stays here
        if not files:
            raise UserError(f"{path} holds no file any more.", where=key, fix="put its files back")
        start = root.parent if root.is_file() else root
        folder = _make_unused(folder, found.packed)
        for file in files:
            found.packed[f"{folder}/{file.relative_to(start).as_posix()}"] = file
        licence = start / "LICENSE.md"
        if licence.is_file():
            found.packed[f"{folder}/{licence.name}"] = licence
        _set(
            found.config, key, f"{folder}/{root.name}" if root.is_file() else _join(folder, pattern)
        )
    found.config["run"] = {**(config.get("run") or {}), "dir": "runs"}
    found.config["logger"] = {}
    (found.config.get("data") or {}).pop("cache_dir", None)
    return found


def _list_paths(node: Any, where: Path, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and value of every text that names a file, folder or pattern of this machine."""
    if key in PLACES:
        return
    if isinstance(node, dict):
        for name, inner in node.items():
            yield from _list_paths(inner, where, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from _list_paths(inner, where, f"{key}.{number}")
    elif isinstance(node, str) and _is_local(node, key, where):
        yield key, node


def _is_local(text: str, key: str, where: Path) -> bool:
    """Whether a value is a path that exists here; a plain word such as `train` is one only at `path` keys."""
    if not text or "\n" in text or len(text) > 4096 or key.endswith("_target_"):
        return False
    named = key.rpartition(".")[2] in PATH_KEYS
    if not named and os.sep not in text and not Path(text).suffix:
        return False
    try:
        place = where / Path(text).expanduser()
        return place.exists() or (
            any(c in text for c in MAGIC) and bool(glob.glob(str(place), recursive=True))
        )
    except (OSError, RuntimeError, ValueError):  # no path at all
        return False


def _split_pattern(place: Path) -> tuple[Path, str]:
    """Return the folder in front of a glob pattern, and the pattern; "" for a plain path."""
    parts = place.parts
    first = next((i for i, part in enumerate(parts) if any(c in part for c in MAGIC)), None)
    if first is None or place.exists():
        return place.resolve(), ""
    return Path(*parts[:first]).resolve(), "/".join(parts[first:])


def _list_files(root: Path, pattern: str) -> list[Path]:
    if pattern:
        found = [Path(name) for name in glob.glob(str(root / pattern), recursive=True)]
    else:
        found = [path for path in root.rglob("*") if not path.name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _make_unused(folder: str, packed: dict[str, Path]) -> str:
    used = {"/".join(name.split("/")[:2]) for name in packed}
    number = 2
    while folder in used:
        folder, number = f"{folder.rstrip('0123456789')}{number}", number + 1
    return folder


def _join(folder: str, pattern: str) -> str:
    return f"{folder}/{pattern}" if pattern else folder


def _set(config: Any, key: str, value: str) -> None:
    *parents, last = key.split(".")
    for name in parents:
        config = config[int(name)] if isinstance(config, list) else config[name]
    config[int(last) if isinstance(config, list) else last] = value
