"""A folder of tasks for lm-eval: whether its YAML files would run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError

PLAIN = "tag:yaml.org,2002:"


def check_task_folder(folder: Path, trusted: bool) -> None:
    """Look through the YAML files of a folder.

    Raises:
        UserError: there is none, one cannot be read, or one names Python code (`!function`, `class`) or
            a file outside of the folder, and the folder is not trusted.
    """
    files = [*folder.rglob("*.yaml"), *folder.rglob("*.yml")]
    if not files:
        what = "holds no YAML file" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}.", where="--task-path")
    for file in sorted(files) if not trusted else []:
        for line, what in _find_code(file, folder):
            raise UserError(
                f"the task names {what}, which would run as code.",
                where=f"{file}:{line}",
                fix="--trust-tasks, if you have read it",
            )


def _find_code(file: Path, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of what is not plain data."""
    import yaml

    try:
        roots = list(yaml.compose_all(file.read_text(encoding="utf-8"), yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not a YAML file: {error}", where=str(file)) from error
    waiting: list[Any] = [root for root in roots if root is not None]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an anchor
            continue
        seen.add(id(node))
        line = node.start_mark.line + 1
        if not node.tag.startswith(PLAIN):
            yield line, f"{node.tag} {node.value if isinstance(node.value, str) else ''}".strip()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == "class":
                    yield line, "a class"
                if key.value == "include" and not _is_inside(file, value, folder):
                    yield line, f"a file outside of {folder}"
                waiting += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _is_inside(file: Path, value: Any, folder: Path) -> bool:
    """Whether the files that `include` names lie in the folder."""
    names = [value.value] if isinstance(value.value, str) else [n.value for n in value.value]
    return all((file.parent / str(n)).resolve().is_relative_to(folder.resolve()) for n in names)
