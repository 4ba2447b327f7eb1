"""Read YAML files with the line of every key, so that every message can name file:line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftcli.config import paths
from ftcli.config.job import Origin
from ftcli.config.paths import format_path
from ftcli.core.errors import UserError


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML mapping with OmegaConf, which reads `1e-4` as a number; interpolations stay.

    Raises:
        UserError: not readable, not YAML, a duplicate key, not a mapping, or too large; with file and line.
    """

    refuse_huge_file(path)
    try:
        config = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise make_syntax_error(error, path) from error
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise UserError(f"cannot be read: {text}", format_path(path), "fix this value") from error
    except (ValueError, TypeError) as error:  # an invalid date, or a key that is not hashable
        raise UserError(
            f"cannot be read: {error}.", format_path(path), "put the value in quotes"
        ) from error
    if not isinstance(config, DictConfig):
        raise UserError(
            "must hold keys and values (a mapping).",
            where=f"{format_path(path)}:1",
            fix="ftcli cp qlora_llama my.yaml gives one to start from",
        )
    return config


def read_root_node(path: Path) -> yaml.Node | None:
    """Return the root node of a YAML file, aliases not expanded; None for an empty file.

    Raises:
        UserError: not readable, or not YAML.
    """
    try:
        return _parse_nodes(path, path.stat().st_mtime_ns)
    except yaml.YAMLError as error:
        raise make_syntax_error(error, path) from error
    except UnicodeError as error:
        raise UserError(
            f"is not UTF-8 text: {error}.", format_path(path), "save it as UTF-8"
        ) from error
    except OSError as error:
        what = f"cannot be read: {error.strerror}."
        raise UserError(what, format_path(path), "check the path and its permissions") from error
    except RecursionError as error:
        raise make_depth_error(path) from error


@lru_cache(maxsize=256)
def _parse_nodes(path: Path, _mtime: int) -> yaml.Node | None:
    return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)


def make_depth_error(path: Path) -> UserError:
    """Return the error for a file that is nested too deeply to be read."""
    return UserError(
        "is nested too deeply.", format_path(path), "no job needs more than ten levels"
    )


def make_syntax_error(error: yaml.YAMLError, path: Path | None = None) -> UserError:
    """Convert a YAML error to a UserError with file and line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None and Path(mark.name).is_file():
        path = Path(mark.name)
    text = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = format_path(path) if path else None
    return UserError(
        f"not valid YAML: {text}.",
        where=f"{where}:{mark.line + 1}" if mark else where,
        fix="fix that line: spaces and no tabs before a key, one key once, quotes around : # { [ *",
    )


def locate_keys(path: Path) -> dict[str, Origin]:
    """Return the location of each dotted key, mappings and leaves, in the order of the file."""
    return _locate_keys(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _locate_keys(path: Path, _mtime: int) -> dict[str, Origin]:
    root = read_root_node(path)
    return dict(_iter_keys(root, "", path)) if isinstance(root, yaml.MappingNode) else {}


def _iter_keys(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, Origin]]:
    merged = [value for name, value in node.value if name.tag == "tag:yaml.org,2002:merge"]
    for value in merged:  # `<<: *base` first, since written keys override merged ones
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(part, yaml.MappingNode):
                yield from _iter_keys(part, prefix, path)
    for name, value in node.value:
        if any(value is other for other in merged):
            continue
        key = f"{prefix}.{name.value}" if prefix else str(name.value)
        yield key, Origin(path, name.start_mark.line + 1)
        if isinstance(value, yaml.MappingNode):
            yield from _iter_keys(value, key, path)


def read_choices(path: Path) -> dict[str, str]:
    """Return the choices in the defaults list of a packaged file: group -> option."""
    entries = read_yaml(path).get("defaults") or []
    return {
        str(k): str(v) for entry in entries if not isinstance(entry, str) for k, v in entry.items()
    }


def find_default_line(path: Path, group: str) -> int | None:
    """Return the line of a file's defaults list that selects an option of `group`."""
    root = read_root_node(path)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for name, value in pairs:
        if name.value != "defaults" or not isinstance(value, yaml.SequenceNode):
            continue
        for item in value.value:
            names = (
                [k.value for k, _ in item.value]
                if isinstance(item, yaml.MappingNode)
                else [item.value]
            )
            if any(
                str(entry_name).split("@")[0].split()[-1].lstrip("/") == group
                for entry_name in names
                if entry_name
            ):
                return item.start_mark.line + 1
    return None


def read_option(file: Path) -> dict[str, Any]:
    """Read the keys of an option, merged over those of the options of its group in its defaults list."""
    config = read_yaml(file)
    bases = [name for name in config.pop("defaults", None) or [] if isinstance(name, str)]
    keys: dict[str, Any] = {}
    for name in bases:
        base = file.parent / f"{name}.yaml"
        if base.is_file():
            keys |= read_option(base)
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return keys | {str(key): value for key, value in values.items()}


#: Values that a file may expand to; the longest packaged job or recipe has about 2,000.
MAX_VALUES = 100_000


def refuse_huge_file(path: Path) -> None:
    """Refuse a file whose aliases expand to too many values, before anything expands them.

    Aliases of aliases in ten lines may expand to a thousand million values.

    Raises:
        UserError: more than `MAX_VALUES` values, an alias inside its own node, or too deep nesting.
    """
    sizes: dict[int, int] = {}

    def count_values(node: yaml.Node | None, parents: frozenset[int]) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in parents:
            raise UserError(
                "an alias refers to a node that contains the alias itself.",
                where=f"{paths.format_path(path)}:{node.start_mark.line + 1}",
                fix="write the values out",
            )
        if id(node) not in sizes:
            parts = [part for entry in node.value for part in _split_entry(entry)]
            sizes[id(node)] = 1 + sum(count_values(part, parents | {id(node)}) for part in parts)
        return sizes[id(node)]

    try:
        count = count_values(read_root_node(path), frozenset())
    except RecursionError as error:
        raise make_depth_error(path) from error
    if count > MAX_VALUES:
        what = f"expands to {count:,} values, more than {MAX_VALUES:,}."
        raise UserError(what, paths.format_path(path), "write fewer aliases (`*name`)")


def _split_entry(entry: Any) -> tuple[Any, ...]:
    """Split an entry of a node into its nodes: key and value of a mapping, the item of a list."""
    return entry if isinstance(entry, tuple) else (entry,)
