"""Find the definitions of classes by reading the files of their packages, without importing them.

`find_definition("peft.LoraConfig")` follows packages, re-exports and star imports to the file that defines the
class. Importing torch or transformers only for the names of arguments would take seconds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(eq=False)
class Module:
    """A parsed file: its module-level names, and the modules that it imports by star."""

    name: str
    file: Path
    text: str
    names: dict[str, ast.stmt | tuple[str, str | None]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    @property
    def package(self) -> str:
        """Package that relative imports of this file start from."""
        if self.file.name == "__init__.py":
            return self.name
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Definition:
    """The definition of a name: a statement in a module, or the module itself if `node` is None."""

    module: Module
    node: ast.stmt | None

    @property
    def dotted_name(self) -> str:
        """Full dotted name of the definition."""
        name = getattr(self.node, "name", None)
        return f"{self.module.name}.{name}" if name else self.module.name

    @property
    def line(self) -> int:
        """Line of the definition."""
        return self.node.lineno if self.node is not None else 1


def find_definition(dotted: str) -> Definition | None:
    """Return the definition of a dotted name; None where a part of it does not exist."""
    top, *rest = dotted.split(".")
    module = load_module(top)
    definition = Definition(module, None) if module else None
    for part in rest:
        if definition is None:
            return None
        definition = find_member(definition, part)
    return definition


def find_member(owner: Definition, name: str) -> Definition | None:
    """Return the definition of `owner.name`, where the owner is a module or a class."""
    if owner.node is None:
        return resolve_name(owner.module, name)
    if isinstance(owner.node, ast.ClassDef):
        for node in owner.node.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return Definition(owner.module, node)
    return None


def resolve_name(
    module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()
) -> Definition | None:
    """Return the definition of a name in a module, through imports; None in a circle of imports."""
    if (module.name, name) in seen:
        return None
    seen = seen | {(module.name, name)}
    bound = module.names.get(name)
    if isinstance(bound, ast.stmt):
        return Definition(module, bound)
    imported = _resolve_import(bound, seen) if bound is not None else None
    if imported:
        return imported
    # also if the package imports its own submodule: `from torch import optim` inside torch
    below = load_module(f"{module.name}.{name}") if module.file.name == "__init__.py" else None
    if below:
        return Definition(below, None)
    for star in module.stars:
        source = load_module(star)
        definition = resolve_name(source, name, seen) if source else None
        if definition:
            return definition
    return None


def resolve_expr(module: Module, expr: ast.expr) -> Definition | None:
    """Return the definition of a name or a dotted attribute in a module."""
    if isinstance(expr, ast.Name):
        return resolve_name(module, expr.id)
    if isinstance(expr, ast.Attribute):
        owner = resolve_expr(module, expr.value)
        return find_member(owner, expr.attr) if owner else None
    return None


def list_public_names(module: Module) -> list[str]:
    """Return the public names of a module, for suggestions."""
    return [name for name in module.names if not name.startswith("_")]


def load_module(name: str) -> Module | None:
    """Return the parsed module of a dotted name; None where it has no Python file."""
    file = _find_file(name)
    return _parse_module(name, file) if file else None


def is_installed(package: str) -> bool:
    """Whether a top-level package is installed."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _find_file(name: str) -> Path | None:
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)  # of a top-level name only: this imports nothing
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.parent / f"{path.name}.py"):
            if file.is_file():
                return file
    return None


@cache
def _parse_module(name: str, file: Path) -> Module:
    text = file.read_text(encoding="utf-8")
    module = Module(name, file, text)
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return module
    for node in _iter_statements(tree.body):
        _bind(module, node)
    return module


def _iter_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the module-level statements, those inside `if`, `try` and `with` included."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for child in getattr(node, part, []):
                    yield from _iter_statements(child.body if part == "handlers" else [child])
        else:
            yield node


def _bind(module: Module, node: ast.stmt) -> None:
    """Record the names that a statement binds; the first binding wins (`try:` over its `except:`)."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        module.names.setdefault(node.name, node)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                module.names.setdefault(target.id, node)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        module.names.setdefault(node.target.id, node)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            imported = alias.name if alias.asname else alias.name.split(".")[0]
            module.names.setdefault(alias.asname or imported, (imported, None))
    elif isinstance(node, ast.ImportFrom):
        _bind_from(module, node)


def _bind_from(module: Module, node: ast.ImportFrom) -> None:
    source = node.module or ""
    if node.level:
        parts = module.package.split(".")
        parts = parts[: len(parts) - (node.level - 1)]
        source = ".".join([*parts, source]) if source else ".".join(parts)
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.names.setdefault(alias.asname or alias.name, (source, alias.name))


def _resolve_import(
    bound: tuple[str, str | None], seen: frozenset[tuple[str, str]]
) -> Definition | None:
    source, name = bound
    module = load_module(source)
    if module is None:
        return None
    return Definition(module, None) if name is None else resolve_name(module, name, seen)


def is_dataclass(node: ast.AST | None) -> bool:
    """Whether a statement is a class with the dataclass decorator."""
    if not isinstance(node, ast.ClassDef):
        return False
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(get_last_name(d) == "dataclass" for d in decorators)


def read_enum_values(definition: Definition | None) -> dict[str, Any] | None:
    """Return the members of an enumeration: name -> value; None for any other definition."""
    if (
        definition is None
        or not isinstance(definition.node, ast.ClassDef)
        or not _is_enum(definition)
    ):
        return None
    values = {}
    for node in definition.node.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return values


def _is_enum(definition: Definition) -> bool:
    for base in getattr(definition.node, "bases", []):
        if get_last_name(base) in ("Enum", "StrEnum", "IntEnum"):
            return True
        parent = resolve_expr(definition.module, base)
        if parent and parent.node is not definition.node and _is_enum(parent):
            return True
    return False


def get_last_name(expr: ast.AST) -> str:
    """Return the last part of a name: `Optional` for `t.Optional`; empty for other expressions."""
    if isinstance(expr, ast.Attribute):
        return expr.attr
    return expr.id if isinstance(expr, ast.Name) else ""
