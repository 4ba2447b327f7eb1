"""Turn an annotation that was read from a file into a type that pydantic can check.

Only what a YAML file can hold matters: numbers, words, lists, mappings. A class that YAML cannot hold
(a tensor, a dtype) is left out of a union; alone it means that anything is accepted.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union

from ftcli.config.source import Definition, Module, resolve_expr

_PLAIN: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "None": None, "Any": Any, "object": Any,
    "list": list, "List": list, "dict": dict, "Dict": dict, "Mapping": dict, "MutableMapping": dict,
    "tuple": list, "Tuple": list, "Sequence": list, "Iterable": list, "set": list, "frozenset": list,
    "Path": str, "PathLike": str, "ClassPath": str,
}  # fmt: skip
_UNKNOWN = object()


def evaluate(expr: ast.expr | None, module: Module) -> Any:
    """The type that an annotation stands for; `Any` where it cannot be known."""
    found = _evaluate(expr, module, 0)
    return Any if found is _UNKNOWN else found


def names_class(expr: ast.expr | None, module: Module) -> Definition | None:
    """The dataclass an annotation mentions (`EvaConfig | None`): its value is a mapping of its keys."""
    for node in _names(expr):
        found = resolve_expr(module, node)
        if found and is_dataclass(found.node):
            return found
    return None


def is_class_path(expr: ast.expr | None) -> bool:
    """Whether the annotation is `ClassPath` (or optional)."""
    return any(_last(node) == "ClassPath" for node in _names(expr))


def is_dataclass(node: ast.AST | None) -> bool:
    """Whether a class statement carries the dataclass decorator."""
    if not isinstance(node, ast.ClassDef):
        return False
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(_last(d) == "dataclass" for d in decorators)


def enum_values(found: Definition | None) -> dict[str, Any] | None:
    """Member name -> value of an enumeration; None for any other definition."""
    if found is None or not isinstance(found.node, ast.ClassDef) or not _is_enum(found):
        return None
    values = {}
    for node in found.node.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return values


def _is_enum(found: Definition) -> bool:
    for base in getattr(found.node, "bases", []):
        if _last(base) in ("Enum", "StrEnum", "IntEnum"):
            return True
        parent = resolve_expr(found.module, base)
        if parent and parent.node is not found.node and _is_enum(parent):
            return True
    return False


def _evaluate(expr: ast.expr | None, module: Module, depth: int) -> Any:
    if expr is None or depth > 20:
        return Any
    if isinstance(expr, ast.Constant):
        return _constant(expr, module, depth)
    if isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.BitOr):
        return _union([expr.left, expr.right], module, depth)
    if isinstance(expr, ast.Subscript):
        return _subscript(expr, module, depth)
    if isinstance(expr, (ast.Name, ast.Attribute)):
        return _name(expr, module, depth)
    return _UNKNOWN


def _constant(expr: ast.Constant, module: Module, depth: int) -> Any:
    if expr.value is None:
        return None
    if isinstance(expr.value, str):  # a forward reference
        try:
            return _evaluate(ast.parse(expr.value, mode="eval").body, module, depth + 1)
        except SyntaxError:
            return _UNKNOWN
    return _UNKNOWN


def _name(expr: ast.expr, module: Module, depth: int) -> Any:
    if _last(expr) in _PLAIN:
        return _PLAIN[_last(expr)]
    found = resolve_expr(module, expr)
    if found is None:
        return _UNKNOWN
    if isinstance(found.node, (ast.Assign, ast.AnnAssign)):  # an alias: MODE = Literal["a", "b"]
        return _evaluate(found.node.value, found.module, depth + 1)
    if is_dataclass(found.node):
        return dict
    values = enum_values(found)
    return Literal[tuple(values.values())] if values else _UNKNOWN


def _subscript(expr: ast.Subscript, module: Module, depth: int) -> Any:
    name = _last(expr.value)
    args = expr.slice.elts if isinstance(expr.slice, ast.Tuple) else [expr.slice]
    if name == "Literal":
        try:
            return Literal[tuple(ast.literal_eval(a) for a in args)]
        except ValueError:
            return _UNKNOWN
    if name == "Optional":
        return _union([*args, ast.Constant(None)], module, depth)
    if name == "Union":
        return _union(args, module, depth)
    if name in ("Annotated", "Final", "Required"):
        return _evaluate(args[0], module, depth + 1)
    return _generic(_PLAIN.get(name, _UNKNOWN), args, module, depth)


def _generic(origin: Any, args: list[ast.expr], module: Module, depth: int) -> Any:
    """`list[int]`, `dict[str, float]`, `tuple[float, float]` (a YAML list of that length)."""
    inner = [_evaluate(a, module, depth + 1) for a in args if not _is_ellipsis(a)]
    inner = [Any if t is _UNKNOWN else t for t in inner]
    if origin is dict:
        return dict[str, inner[1]] if len(inner) == 2 else dict  # type: ignore[valid-type]
    if origin is not list:
        return _UNKNOWN
    if len(inner) == 1:
        return list[inner[0]]  # type: ignore[valid-type]
    return tuple[tuple(inner)]  # type: ignore[misc, valid-type]


def _union(args: Iterable[ast.expr], module: Module, depth: int) -> Any:
    members = [t for t in (_evaluate(a, module, depth + 1) for a in args)]
    known = [t for t in members if t is not _UNKNOWN]
    if Any in known or (len(known) < len(members) and known in ([], [None])):
        return Any
    return Union[tuple(known)]  # noqa: UP007 - built from values


def _names(expr: ast.expr | None) -> Iterator[ast.expr]:
    """Every name in an annotation, forward references included."""
    if expr is None:
        return
    if isinstance(expr, ast.Constant) and isinstance(expr.value, str):
        try:
            yield from _names(ast.parse(expr.value, mode="eval").body)
        except SyntaxError:
            return
    elif isinstance(expr, (ast.Name, ast.Attribute)):
        yield expr
    else:
        for child in ast.iter_child_nodes(expr):
            if isinstance(child, ast.expr):
                yield from _names(child)


def _last(expr: ast.AST) -> str:
    """The last word of a name: `t.Optional` and `Optional` are the same."""
    if isinstance(expr, ast.Attribute):
        return expr.attr
    return expr.id if isinstance(expr, ast.Name) else ""


def _is_ellipsis(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and expr.value is ...


def describe(kind: Any) -> str:
    """A type in the words of a message: 'a number', 'one of nf4, fp4', 'a list of words'."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin is Union or (origin is not None and str(origin) == "<class 'types.UnionType'>"):
        parts = [describe(a) for a in args if a is not type(None)]
        return " or ".join(dict.fromkeys(parts + (["null"] if type(None) in args else [])))
    if origin in (list, tuple):
        many = f"{len(args)} values" if origin is tuple else "a list"
        return many if not args or args[0] is Any else f"{many}, each {describe(args[0])}"
    words: dict[Any, str] = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
        dict: "a mapping", list: "a list", None: "null", type(None): "null",
    }  # fmt: skip
    return words.get(origin or kind, "a value")
