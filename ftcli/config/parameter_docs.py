"""Default and help of a parameter, read from source: values, comments and docstrings."""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from dataclasses import dataclass
from typing import Any

from ftcli.config import class_lookup
from ftcli.config.class_lookup import Module, read_enum_values


class _Missing:
    def __repr__(self) -> str:
        return "no default"


#: A parameter without a default.
REQUIRED = _Missing()


@dataclass(frozen=True)
class ComputedDefault:
    """A default that is an expression, whose value is known only at run time."""

    text: str


def infer_type(default: Any) -> Any:
    """Return the type of an argument without annotation, inferred from its default."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return float if isinstance(default, float) else int | float
    if isinstance(default, list) and default and all(isinstance(v, float) for v in default):
        return tuple[tuple(float for _ in default)]  # type: ignore[misc]
    return Any


def evaluate_default(expr: ast.expr, module: Module) -> Any:
    """Evaluate a default: literals, module constants and members of enumerations; else `ComputedDefault`."""
    try:
        value = ast.literal_eval(expr)
        return list(value) if isinstance(value, (tuple, set)) else value
    except (ValueError, TypeError):
        pass
    if isinstance(expr, ast.Attribute):
        members = read_enum_values(class_lookup.resolve_expr(module, expr.value)) or {}
        if expr.attr in members:
            return members[expr.attr]
    definition = class_lookup.resolve_expr(module, expr)
    if (
        definition
        and isinstance(definition.node, (ast.Assign, ast.AnnAssign))
        and definition.node.value
    ):
        if not isinstance(definition.node.value, (ast.Name, ast.Attribute)):
            return evaluate_default(definition.node.value, definition.module)
    return ComputedDefault(ast.unparse(expr))


def evaluate_field_default(options: dict[str, ast.expr], module: Module) -> Any:
    """Evaluate the default in the options of `dataclasses.field`."""
    if "default" in options:
        return evaluate_default(options["default"], module)
    factory = options.get("default_factory")
    if factory is None:
        return REQUIRED
    if isinstance(factory, ast.Name) and factory.id in ("list", "dict", "tuple", "set"):
        return {} if factory.id == "dict" else []
    if isinstance(factory, ast.Lambda):
        return evaluate_default(factory.body, module)
    return ComputedDefault(ast.unparse(factory))


def read_field_comment(node: ast.stmt | ast.arg, module: Module) -> str:
    """Return the help of a field: its trailing comment, or the `#:` lines above it."""
    lines = module.text.splitlines()
    end = node.end_lineno or node.lineno
    block = textwrap.dedent("\n".join(lines[node.lineno - 1 : end]))
    if "#" in lines[end - 1]:
        comments = [t.string for t in _tokenize(block) if t.type == tokenize.COMMENT]
        if comments:
            return comments[-1].lstrip("#: ").strip()
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        above.insert(0, line.strip()[2:].strip())
    return " ".join(above)


def _tokenize(block: str) -> list[tokenize.TokenInfo]:
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(block).readline):
            tokens.append(token)
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass  # an argument alone is no complete statement
    return tokens


_ENTRY = re.compile(r"^\s+`{0,2}(\w+)`{0,2}\s*(?:\([^\n]*\))?\s*:\s*(.*)$")


def parse_docstring(doc: str) -> dict[str, str]:
    """Return the arguments described in a docstring: name -> first line of its text."""
    texts: dict[str, str] = {}
    name = None
    for line in doc.splitlines():
        entry = _ENTRY.match(line)
        if entry:
            name = entry[1]
            texts.setdefault(name, entry[2].strip())
        elif name and not texts[name]:
            texts[name] = line.strip()
    return texts


def read_metadata_help(expr: ast.expr | None) -> str:
    """Return the text under `help` in the metadata of a dataclass field."""
    if not isinstance(expr, ast.Dict):
        return ""
    for key, value in zip(expr.keys, expr.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            try:
                return " ".join(str(ast.literal_eval(value)).split())
            except ValueError:
                return ""
    return ""
