"""The order of the layers: a folder imports from folders before it in this list, never from later ones.

All imports count, also those inside functions and for type checking alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ftcli

PACKAGE = Path(ftcli.__file__).parent
#: From the bottom up; folders of one line may import each other.
LAYERS = (
    ("core",),
    ("config",),
    ("data", "models"),
    (
        "methods", "trainable", "objectives", "penalties", "optimizers", "schedulers", "rewards",
        "evaluation", "loggers",
    ),
    ("callbacks",),
    ("trainer",),
    ("run",),
    ("planning",),
    ("deltas",),
    ("jobs",),
    ("pipelines",),
    ("serving",),
    ("sweeps",),
    ("reproduce",),
    ("papers",),
    ("cli",),
)  # fmt: skip
LAYER = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}


def _modules() -> dict[str, Path]:
    named = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["ftcli", *path.relative_to(PACKAGE).with_suffix("").parts]
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else str(node.module)


def _graph() -> dict[str, set[str]]:
    modules = _modules()
    return {name: set(_imports(path, modules)) - {name} for name, path in modules.items()}


def _folder(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_folder_has_its_layer():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"assets"}
    assert folders == set(LAYER)


def test_nothing_imports_from_a_later_layer():
    upward = [
        f"{module} -> {imported}"
        for module, imports in _graph().items()
        for imported in imports
        if LAYER.get(_folder(module), 99) < LAYER.get(_folder(imported), -1)
    ]
    assert upward == []


def test_no_paper_imports_another():
    crossing = [
        f"{module} -> {imported}"
        for module, imports in _graph().items()
        for imported in imports
        if _folder(module) == _folder(imported) == "papers"
        and module.split(".")[2:3] != imported.split(".")[2:3]
    ]
    assert crossing == []


def test_no_circle_of_imports_crosses_a_folder():
    """Circles are looked for between folders of one layer, and between modules of different folders."""
    graph = _graph()
    between = {
        module: {name for name in imports if _folder(name) != _folder(module)}
        for module, imports in graph.items()
    }
    reached = {module: _reach(module, graph) for module in graph}
    circles = [
        f"{module} <-> {imported}"
        for module, imports in between.items()
        for imported in imports
        if module in reached[imported]
    ]
    assert circles == []


def _reach(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen
