"""Evaluate annotations that were read from source, and check and convert values by them.

Only types of values that YAML can hold matter: numbers, strings, lists, mappings. A class that YAML
cannot hold (a tensor, a dtype) is left out of a union; an annotation of such a class alone accepts any
value.
"""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Union

from ftcli.config.class_lookup import (
    Definition,
    Module,
    get_last_name,
    is_dataclass,
    read_enum_values,
    resolve_expr,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_PLAIN: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "None": None, "Any": Any, "object": Any,
    "list": list, "List": list, "dict": dict, "Dict": dict, "Mapping": dict, "MutableMapping": dict,
    "tuple": list, "Tuple": list, "Sequence": list, "Iterable": list, "set": list, "frozenset": list,
    "Path": str, "PathLike": str, "ClassPath": str,
}  # fmt: skip
_UNKNOWN = object()


def evaluate_annotation(expr: ast.expr | None, module: Module) -> Any:
    """Return the type that an annotation denotes; `Any` where it cannot be determined."""
    kind = _evaluate(expr, module, 0)
    return Any if kind is _UNKNOWN else kind


def find_dataclass(expr: ast.expr | None, module: Module) -> Definition | None:
    """Return the dataclass that an annotation names (`EvaConfig | None`), whose fields are keys in YAML."""
    for node in _iter_names(expr):
        definition = resolve_expr(module, node)
        if definition and is_dataclass(definition.node):
            return definition
    return None


def is_class_path(expr: ast.expr | None) -> bool:
    """Whether an annotation is `ClassPath` or `ClassPath | None`."""
    return any(get_last_name(node) == "ClassPath" for node in _iter_names(expr))


def _evaluate(expr: ast.expr | None, module: Module, depth: int) -> Any:
    if expr is None or depth > 20:
        return Any
    if isinstance(expr, ast.Constant):
        return _evaluate_constant(expr, module, depth)
    if isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.BitOr):
        return _evaluate_union([expr.left, expr.right], module, depth)
    if isinstance(expr, ast.Subscript):
        return _evaluate_subscript(expr, module, depth)
    if isinstance(expr, (ast.Name, ast.Attribute)):
        return _evaluate_name(expr, module, depth)
    return _UNKNOWN


def _evaluate_constant(expr: ast.Constant, module: Module, depth: int) -> Any:
    if expr.value is None:
        return None
    if isinstance(expr.value, str):  # a forward reference
        try:
            return _evaluate(ast.parse(expr.value, mode="eval").body, module, depth + 1)
        except SyntaxError:
            return _UNKNOWN
    return _UNKNOWN


def _evaluate_name(expr: ast.expr, module: Module, depth: int) -> Any:
    if get_last_name(expr) in _PLAIN:
        return _PLAIN[get_last_name(expr)]
    definition = resolve_expr(module, expr)
    if definition is None:
        return _UNKNOWN
    statement = definition.node
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):  # an alias: MODE = Literal["a", "b"]
        return _evaluate(statement.value, definition.module, depth + 1)
    if is_dataclass(definition.node):
        return dict
    values = read_enum_values(definition)
    return Literal[tuple(values.values())] if values else _UNKNOWN


def _evaluate_subscript(expr: ast.Subscript, module: Module, depth: int) -> Any:
    name = get_last_name(expr.value)
    args = expr.slice.elts if isinstance(expr.slice, ast.Tuple) else [expr.slice]
    if name == "Literal":
        try:
            return Literal[tuple(ast.literal_eval(a) for a in args)]
        except ValueError:
            return _UNKNOWN
    if name == "Optional":
        return _evaluate_union([*args, ast.Constant(None)], module, depth)
    if name == "Union":
        return _evaluate_union(args, module, depth)
    if name in ("Annotated", "Final", "Required"):
        return _evaluate(args[0], module, depth + 1)
    return _evaluate_generic(_PLAIN.get(name, _UNKNOWN), args, module, depth)


def _evaluate_generic(origin: Any, args: list[ast.expr], module: Module, depth: int) -> Any:
    """Evaluate `list[int]`, `dict[str, float]` or `tuple[float, float]` (a YAML list of that length)."""
    inner = [_evaluate(a, module, depth + 1) for a in args if not _is_ellipsis(a)]
    inner = [Any if t is _UNKNOWN else t for t in inner]
    if origin is dict:
        return dict[str, inner[1]] if len(inner) == 2 else dict  # type: ignore[valid-type]
    if origin is not list:
        return _UNKNOWN
    if len(inner) == 1:
        return list[inner[0]]  # type: ignore[valid-type]
    return tuple[tuple(inner)]  # type: ignore[misc, valid-type]


def _evaluate_union(args: Iterable[ast.expr], module: Module, depth: int) -> Any:
    members = [t for t in (_evaluate(a, module, depth + 1) for a in args)]
    known = [t for t in members if t is not _UNKNOWN]
    if Any in known or (len(known) < len(members) and known in ([], [None])):
        return Any
    return Union[tuple(known)]  # noqa: UP007 - built from values


def _iter_names(expr: ast.expr | None) -> Iterator[ast.expr]:
    """Yield every name in an annotation, those inside forward references included."""
    if expr is None:
        return
    if isinstance(expr, ast.Constant) and isinstance(expr.value, str):
        try:
            yield from _iter_names(ast.parse(expr.value, mode="eval").body)
        except SyntaxError:
            return
    elif isinstance(expr, (ast.Name, ast.Attribute)):
        yield expr
    else:
        for child in ast.iter_child_nodes(expr):
            if isinstance(child, ast.expr):
                yield from _iter_names(child)


def _is_ellipsis(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and expr.value is ...


def describe_type(kind: Any) -> str:
    """Describe a type for a message: 'a number', 'one of nf4, fp4', 'a list, each text'."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin is Union or (origin is not None and str(origin) == "<class 'types.UnionType'>"):
        parts = [describe_type(a) for a in args if a is not type(None)]
        return " or ".join(dict.fromkeys(parts + (["null"] if type(None) in args else [])))
    if origin in (list, tuple):
        many = f"{len(args)} values" if origin is tuple else "a list"
        return many if not args or args[0] is Any else f"{many}, each {describe_type(args[0])}"
    words: dict[Any, str] = {
        int: "a whole number", float: "a number", str: "text", bool: "true or false",
        dict: "a mapping", list: "a list", None: "null", type(None): "null",
    }  # fmt: skip
    return words.get(origin or kind, "a value")


class WrongType(ValueError):
    """A value does not have the type of its key; the text names the expected type."""


def convert_value(value: Any, kind: Any) -> Any:
    """Convert a value to the type `kind`: text and integers become numbers where numbers are expected.

    Raises:
        WrongType: the value cannot be converted.
    """
    if kind is Any:
        return value
    members = _list_members(kind)
    literals = [literal for member in members for literal in _list_literals(member)]
    if value is None and type(None) not in members and "none" in literals:
        return "none"  # `model.quantization=null`
    if isinstance(value, str) and any(_fits_pattern(value, literal) for literal in literals):
        return value
    if isinstance(value, bool) and not _takes_bool(members):
        raise WrongType(_describe_expected(kind, value))
    if isinstance(value, str) and float in members and value not in literals:
        try:  # in `float | str` pydantic would keep a number written as text
            return float(value)
        except ValueError:
            pass
    from pydantic import ValidationError

    try:
        return _convert_tuples(_make_adapter(_HashableType(kind)).validate_python(value))
    except ValidationError:
        raise WrongType(_describe_expected(kind, value)) from None


def _describe_expected(kind: Any, value: Any) -> str:
    hint = ""
    lists = [m for m in _list_members(kind) if m is list or typing.get_origin(m) in (list, tuple)]
    if lists and isinstance(value, str):
        hint = f" (write [{value}])"
    return f"expected {describe_type(kind)}{hint}."


def _list_members(kind: Any) -> tuple[Any, ...]:
    """Members of a union; any other type is its own only member."""
    union = typing.get_origin(kind) is typing.Union or type(kind).__name__ == "UnionType"
    return typing.get_args(kind) if union else (kind,)


def _list_literals(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _fits_pattern(value: str, literal: Any) -> bool:
    """Whether a value is a literal with its part in brackets filled in: `pissa_niter_[number of iters]` of PEFT."""
    start, bracket, rest = str(literal).partition("[")
    end = rest.partition("]")[2]
    pattern = re.escape(start) + r"\w+" + re.escape(end)
    return bool(bracket) and re.fullmatch(pattern, value) is not None


def _takes_bool(members: tuple[Any, ...]) -> bool:
    return any(
        m in (bool, Any) or any(isinstance(c, bool) for c in _list_literals(m)) for m in members
    )


class _HashableType:
    """A type as a cache key, hashed by its text, since unions may have unhashable members."""

    def __init__(self, kind: Any) -> None:
        self.kind, self.text = kind, repr(kind)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HashableType) and self.text == other.text


@cache
def _make_adapter(hashed: _HashableType) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # numbers may stand for text: a run named 7, a revision that is all digits
    return TypeAdapter(hashed.kind, config=ConfigDict(coerce_numbers_to_str=True))


def _convert_tuples(value: Any) -> Any:
    """Replace tuples by lists, at any depth: YAML has no tuples."""
    if isinstance(value, (list, tuple)):
        return [_convert_tuples(v) for v in value]
    if isinstance(value, dict):
        return {k: _convert_tuples(v) for k, v in value.items()}
    return value
