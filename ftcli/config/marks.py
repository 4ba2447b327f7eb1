"""Lines of YAML keys: read beside the values, so that every message can say file:line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ftcli.config.composed import Origin
from ftcli.config.paths import shown
from ftcli.errors import UserError


def read(path: Path) -> DictConfig:
    """A YAML mapping as OmegaConf reads it (`1e-4` is a number there), interpolations untouched.

    Raises:
        UserError: not readable, not YAML, a key given twice, or not a mapping; with file and line.
    """
    try:
        config = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise syntax_error(error, path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=shown(path)) from error
    if not isinstance(config, DictConfig):
        raise UserError("must hold keys and values (a mapping).", where=f"{shown(path)}:1")
    return config


def syntax_error(error: yaml.YAMLError, path: Path | None = None) -> UserError:
    """What is wrong with a YAML file, at its line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None and Path(mark.name).is_file():
        path = Path(mark.name)
    text = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = shown(path) if path else None
    return UserError(
        f"not valid YAML: {text}.", where=f"{where}:{mark.line + 1}" if mark else where
    )


def marks(path: Path) -> dict[str, Origin]:
    """Dotted key -> its line, for mappings and leaves alike, in the order of the file."""
    return _marks(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _marks(path: Path, _mtime: int) -> dict[str, Origin]:
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return dict(_walk(root, "", path)) if isinstance(root, yaml.MappingNode) else {}


def _walk(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, Origin]]:
    merged = [value for name, value in node.value if name.tag == "tag:yaml.org,2002:merge"]
    for value in merged:  # `<<: *base` first: keys written out win over merged ones
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(part, yaml.MappingNode):
                yield from _walk(part, prefix, path)
    for name, value in node.value:
        if any(value is other for other in merged):
            continue
        key = f"{prefix}.{name.value}" if prefix else str(name.value)
        yield key, Origin(path, name.start_mark.line + 1)
        if isinstance(value, yaml.MappingNode):
            yield from _walk(value, key, path)


def default_line(path: Path, group: str) -> int | None:
    """The line of a file's defaults list that picks an option of `group`."""
    root: Any = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for name, value in pairs:
        if name.value != "defaults" or not isinstance(value, yaml.SequenceNode):
            continue
        for item in value.value:
            words = (
                [k.value for k, _ in item.value]
                if isinstance(item, yaml.MappingNode)
                else [item.value]
            )
            if any(str(w).split("@")[0].split()[-1].lstrip("/") == group for w in words if w):
                return item.start_mark.line + 1
    return None
