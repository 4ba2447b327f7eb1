"""Lines of YAML keys: read beside the values, so that every message can say file:line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftcli.config.composed import Origin
from ftcli.config.paths import shown
from ftcli.core.errors import UserError


def read(path: Path) -> DictConfig:
    """A YAML mapping as OmegaConf reads it (`1e-4` is a number there), interpolations untouched.

    Raises:
        UserError: not readable, not YAML, a key given twice, or not a mapping; with file and line.
    """
    from ftcli.config import sizes

    sizes.refuse_huge(path)
    try:
        config = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise syntax_error(error, path) from error
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise UserError(f"cannot be read: {text}", shown(path), "mend this value") from error
    except (ValueError, TypeError) as error:  # a date that is none, a key that cannot be one
        raise UserError(
            f"cannot be read: {error}.", shown(path), "put the value in quotes"
        ) from error
    if not isinstance(config, DictConfig):
        raise UserError(
            "must hold keys and values (a mapping).",
            where=f"{shown(path)}:1",
            fix="ftcli cp qlora_llama my.yaml gives one to start from",
        )
    return config


def tree(path: Path) -> Any:
    """The nodes of a YAML file as they stand there, aliases shared; None for an empty file.

    Raises:
        UserError: not readable, or not YAML.
    """
    try:
        return _tree(path, path.stat().st_mtime_ns)
    except yaml.YAMLError as error:
        raise syntax_error(error, path) from error
    except UnicodeError as error:
        raise UserError(f"is not UTF-8 text: {error}.", shown(path), "save it as UTF-8") from error
    except OSError as error:
        what = f"cannot be read: {error.strerror}."
        raise UserError(what, shown(path), "check the path and its permissions") from error
    except RecursionError as error:
        raise too_deep(path) from error


@lru_cache(maxsize=256)
def _tree(path: Path, _mtime: int) -> Any:
    return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)


def too_deep(path: Path) -> UserError:
    """For a file whose brackets or indents go deeper than anything can read."""
    return UserError("is nested too deeply.", shown(path), "no job needs more than ten levels")


def syntax_error(error: yaml.YAMLError, path: Path | None = None) -> UserError:
    """What is wrong with a YAML file, at its line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None and Path(mark.name).is_file():
        path = Path(mark.name)
    text = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = shown(path) if path else None
    return UserError(
        f"not valid YAML: {text}.",
        where=f"{where}:{mark.line + 1}" if mark else where,
        fix="mend that line: spaces and no tabs before a key, one key once, quotes around : # { [ *",
    )


def marks(path: Path) -> dict[str, Origin]:
    """Dotted key -> its line, for mappings and leaves alike, in the order of the file."""
    return _marks(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _marks(path: Path, _mtime: int) -> dict[str, Origin]:
    root = tree(path)
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


def choices(path: Path) -> dict[str, str]:
    """Group -> option of the defaults list of a packaged file."""
    entries = read(path).get("defaults") or []
    return {
        str(k): str(v) for entry in entries if not isinstance(entry, str) for k, v in entry.items()
    }


def default_line(path: Path, group: str) -> int | None:
    """The line of a file's defaults list that picks an option of `group`."""
    root = tree(path)
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
