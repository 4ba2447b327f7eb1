"""What a parameter is when nobody gives it: a value, an expression, or nothing. Read from source."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from ftcli.config import hints, source
from ftcli.config.source import Module


class _Missing:
    def __repr__(self) -> str:
        return "no default"


#: A parameter without a default.
REQUIRED = _Missing()


@dataclass(frozen=True)
class Computed:
    """A default that is an expression, known only when the class runs."""

    text: str


def type_of(default: Any) -> Any:
    """The type of an argument that has a default but no annotation."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return float if isinstance(default, float) else int | float
    if isinstance(default, list) and default and all(isinstance(v, float) for v in default):
        return tuple[tuple(float for _ in default)]  # type: ignore[misc]
    return Any


def value_of(expr: ast.expr, module: Module) -> Any:
    """A default as a plain value: literals, module constants, members of enumerations."""
    try:
        value = ast.literal_eval(expr)
        return list(value) if isinstance(value, (tuple, set)) else value
    except (ValueError, TypeError):
        pass
    if isinstance(expr, ast.Attribute):
        members = hints.enum_values(source.resolve_expr(module, expr.value)) or {}
        if expr.attr in members:
            return members[expr.attr]
    found = source.resolve_expr(module, expr)
    if found and isinstance(found.node, (ast.Assign, ast.AnnAssign)) and found.node.value:
        if not isinstance(found.node.value, (ast.Name, ast.Attribute)):
            return value_of(found.node.value, found.module)
    return Computed(ast.unparse(expr))


def of_field(options: dict[str, ast.expr], module: Module) -> Any:
    """The default that the options of `dataclasses.field` give."""
    if "default" in options:
        return value_of(options["default"], module)
    factory = options.get("default_factory")
    if factory is None:
        return REQUIRED
    if isinstance(factory, ast.Name) and factory.id in ("list", "dict", "tuple", "set"):
        return {} if factory.id == "dict" else []
    if isinstance(factory, ast.Lambda):
        return value_of(factory.body, module)
    return Computed(ast.unparse(factory))
