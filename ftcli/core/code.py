"""A hash of the code behind a figure: of the modules of ftcli that the computation imports.

Imports are read from source with `ast`, also those inside functions, and followed. A class that a string
names, such as `_target_` in a configuration, counts as an import, and so do all modules of a package that
imports its own members by name. Comments, docstrings and blank lines do not count. A YAML file may stand
among the modules (an option that a job is composed of); its values count.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # folder that holds the package
PACKAGE = "ftcli"
SETTINGS = ".yaml"  # suffix of a file of values
#: The module that trains or resumes a run of a resolved configuration.
ENTRY = "ftcli.jobs.trial"
NOT_CHOICES = ("run", "logger")  # where a run writes does not change what it computes
#: Libraries whose versions are stored beside a figure.
LIBRARIES = ("torch", "transformers", "peft")
#: Modules that compose, plan or show, and compute no figure of a run: the resolved configuration is part
#: of a run's hash by itself. A package of this list counts where one of the roots lies in it.
EXCLUDED = (
    "ftcli.cli", "ftcli.config", "ftcli.planning", "ftcli.loggers", "ftcli.serving", "ftcli.core.errors",
    "ftcli.run.card", "ftcli.run.plots", "ftcli.run.report", "ftcli.core.code",
)  # fmt: skip


def roots_of(*configs: Mapping[str, Any]) -> list[str]:
    """Return the modules from which runs of these configurations start: the entry and every class named."""
    chosen = [{k: v for k, v in config.items() if k not in NOT_CHOICES} for config in configs]
    named = {module for config in chosen for module in _find_named_modules(config)}
    return sorted({ENTRY, *named})


def digest(roots: Iterable[str], root: Path = ROOT) -> str:
    """Return the hash of the modules `roots` and of all that they import, at any depth: 16 hex digits.

    Args:
        root: folder that holds the package; of another checkout, to hash another commit.

    Raises:
        KeyError: there is no such module or file.
    """
    state = hashlib.sha256()
    for name in closure(roots, root):
        path = _find_file(name, root)
        text = (
            _read_yaml_values(path)
            if name.endswith(SETTINGS)
            else _parse(path, _read_modification_time(path), root)[0]
        )
        state.update(f"{name}\n{text}\n".encode())
    return state.hexdigest()[:16]


def closure(roots: Iterable[str], root: Path = ROOT) -> list[str]:
    """Return the modules and files `roots` and all that they import inside the package, sorted.

    A module brings the packages that it lies in, because importing it runs them.
    """
    seen, waiting = set[str](), list(roots)
    excluded = tuple(part for part in EXCLUDED if not any(_is_in(name, part) for name in waiting))
    while waiting:
        name = waiting.pop()
        if name in seen or any(_is_in(name, part) for part in excluded):
            continue
        seen.add(name)
        path = _find_file(name, root)
        if not name.endswith(SETTINGS):
            waiting += _parse(path, _read_modification_time(path), root)[1]
            parent = name.rpartition(".")[0]
            waiting += (
                [parent] if parent in _list_modules(root) else []
            )  # a folder may have no __init__
    return sorted(seen)


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that compute; those not installed are left out."""
    return {name: number for name in LIBRARIES if (number := _find_version(name))}


@cache
def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _find_file(name: str, root: Path) -> Path:
    if not name.endswith(SETTINGS):
        return _list_modules(root)[name]
    if not (root / name).is_file():
        raise KeyError(name)
    return root / name


def _read_modification_time(path: Path) -> int:
    return path.stat().st_mtime_ns


def _read_yaml_values(path: Path) -> str:
    """The values of a YAML file as JSON with sorted keys."""
    import yaml

    return json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), sort_keys=True, default=str)


def _find_named_modules(value: Any) -> Iterator[str]:
    """Modules of the classes named anywhere in a configuration."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _find_named_modules(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_named_modules(item)
    elif isinstance(value, str) and (module := _find_module(value, _list_modules(ROOT))):
        yield module


def _find_module(text: str, modules: Mapping[str, Path]) -> str | None:
    """The module that a dotted path such as `ftcli.papers.qst.method.QST` begins with."""
    if not text.startswith(f"{PACKAGE}.") or not text.isascii():
        return None
    while text and text not in modules:
        text = text.rpartition(".")[0]
    return text if "." in text else None


@cache
def _list_modules(root: Path) -> dict[str, Path]:
    """Module -> file, for the whole package."""
    modules = {}
    for path in (root / PACKAGE).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


@cache
def _parse(path: Path, changed: int, root: Path) -> tuple[str, tuple[str, ...]]:
    """The significant text of a file, and the modules of the package that it imports."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    modules = _list_modules(root)
    name = next(module for module, file in modules.items() if file == path)
    return _extract_significant_text(source, tree), tuple(
        sorted(set(_find_imports(tree, name, modules)))
    )


def _extract_significant_text(source: str, tree: ast.Module) -> str:
    """The source without docstrings, comments and blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for text in _find_docstrings(tree):
        for row in range(text.lineno, (text.end_lineno or text.lineno) + 1):
            lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _find_docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that are a string alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                yield node


def _find_imports(node: ast.AST, name: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a module imports where it runs, not for type checking alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for statement in node.orelse:
            yield from _find_imports(statement, name, modules)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom) and node.module in modules:
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in modules else str(node.module)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if module := _find_module(node.value, modules):
            yield module
    elif isinstance(node, ast.Call) and _imports_members(node):
        yield from (module for module in modules if module.rpartition(".")[0] == name)
    for child in ast.iter_child_nodes(node):
        yield from _find_imports(child, name, modules)


def _imports_members(call: ast.Call) -> bool:
    """Whether a call is `import_module(f"{__name__}.{...}")`: any member of the own package."""
    if not ast.unparse(call.func).endswith("import_module") or not call.args:
        return False
    text = call.args[0]
    if not isinstance(text, ast.JoinedStr) or not isinstance(text.values[0], ast.FormattedValue):
        return False
    return ast.unparse(text.values[0].value) == "__name__"
