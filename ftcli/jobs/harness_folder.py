"""A folder of tasks for lm-eval: whether its YAML files would run code."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError

PREFIX = "tag:yaml.org,2002:"
#: YAML's own types; PyYAML writes its tags for Python objects with the same prefix.
PLAIN = frozenset(
    PREFIX + name
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
)


def check_task_folder(folder: Path, trusted: bool, metrics: Container[str]) -> None:
    """Look through the YAML files of a folder, and through what they include, whatever its name.

    Args:
        metrics: names of lm-eval's own metrics. It takes others from the library evaluate, which fetches and runs their code.

    Raises:
        UserError: there is none, one cannot be read, or one names Python code (`!function`, `class`), a
            metric that is not lm-eval's or a file outside of the folder, and the folder is not trusted.
    """
    files = sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])
    if not files:
        what = "holds no YAML file" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}.", where="--task-path")
    if trusted:
        return
    seen: set[Path] = set()
    while files:
        file = files.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in _iterate_nodes(file):
            for what in _find_code(node, file, folder, metrics):
                raise UserError(
                    f"the task names {what}, which would run as code.",
                    where=f"{file}:{node.start_mark.line + 1}",
                    fix="--trust-tasks, if you have read it",
                )
            files += [name for name in _list_included(node, file) if name.is_file()]


def _iterate_nodes(file: Path) -> Iterator[Any]:
    """Yield each node of a YAML file once; aliases share theirs."""
    import yaml

    try:
        roots = list(yaml.compose_all(file.read_text(encoding="utf-8"), yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"not a YAML file: {error}",
            where=str(file),
            fix="mend it, or move it out of the folder of --task-path, every file of which is read",
        ) from error
    waiting: list[Any] = [root for root in roots if root is not None]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _find_code(node: Any, file: Path, folder: Path, metrics: Container[str]) -> Iterator[str]:
    """Yield what is not plain data: tags, and pairs of a mapping."""
    if node.tag not in PLAIN:
        named = node.value if isinstance(node.value, str) else ""
        yield f"{node.tag.removeprefix(PREFIX)} {named}".strip()
    for key, value in _list_pairs(node):
        if key in ("class", "hf_evaluate"):
            yield f"{key}: {value.value}"
        if key == "metric" and isinstance(value.value, str) and value.value not in metrics:
            yield f"the metric {value.value}, which is not lm-eval's own"
    for included in _list_included(node, file):
        if not included.is_relative_to(folder.resolve()):
            yield f"a file outside of {folder}"


def _list_included(node: Any, file: Path) -> list[Path]:
    """The files that `include` of a mapping names."""
    values = [value for key, value in _list_pairs(node) if key == "include"]
    parts = [[v] if isinstance(v.value, str) else v.value for v in values]
    return [(file.parent / str(name.value)).resolve() for part in parts for name in part]


def _list_pairs(node: Any) -> list[tuple[Any, Any]]:
    """Keys as they are written, and nodes of values; none where the node is no mapping."""
    from yaml import MappingNode

    return [(key.value, value) for key, value in node.value] if type(node) is MappingNode else []
