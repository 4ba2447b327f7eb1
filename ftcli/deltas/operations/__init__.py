"""The commands of `ftcli delta`, found by listing files.

A command is the one public function of a module: of this folder, or of `operation.py` in a paper's
folder. Its name is the command's, its arguments are Typer's, and it returns a `Report`.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path

from ftcli.deltas.report import Report

Operation = Callable[..., Report]


def find_operations() -> dict[str, Operation]:
    """Return command -> function, sorted by name."""
    folder = Path(__file__).parent
    papers = folder.parents[1] / "papers"
    files = [*folder.glob("[!_]*.py"), *papers.glob("*/operation.py")]
    files_by_command = {_read_command(file): file for file in files}
    return {name: _load(name, file) for name, file in sorted(files_by_command.items())}


def _read_command(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    (command,) = [name for name in names if not name.startswith("_")]
    return command


def _load(name: str, file: Path) -> Operation:
    package = Path(__file__).parents[2]
    module = ".".join(["ftcli", *file.relative_to(package).with_suffix("").parts])
    operation: Operation = getattr(importlib.import_module(module), name)
    return operation
