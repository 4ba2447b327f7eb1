"""The keys a class takes, read from its source: names, types, defaults, help. Nothing is imported.

Dataclass fields (also inherited ones) or the arguments of `__init__`, of ftcli's own classes and of
library classes such as `peft.LoraConfig` or `torch.optim.AdamW`.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import textwrap
import tokenize
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from ftcli.config import hints, source
from ftcli.config.source import Definition, Module


class _Missing:
    def __repr__(self) -> str:
        return "no default"


#: A parameter without a default.
REQUIRED = _Missing()


@dataclass(frozen=True)
class Computed:
    """A default that is an expression, known only when the class runs."""

    text: str


@dataclass(frozen=True)
class Parameter:
    """One key of a class."""

    name: str
    type: Any = Any
    annotation: str = ""
    default: Any = REQUIRED
    help: str = ""
    owner: str = ""
    nested: str | None = None
    is_class_path: bool = False

    @property
    def required(self) -> bool:
        """Whether the key must be given."""
        return self.default is REQUIRED

    @property
    def has_value(self) -> bool:
        """Whether the default is a plain value that can be written into a configuration."""
        return not self.required and not isinstance(self.default, Computed)


@dataclass(frozen=True)
class Signature:
    """What a class or function takes.

    Attributes:
        target: the dotted name as asked for.
        parameters: key -> Parameter.
        open: whether further keys are accepted (`**options`).
        attributes: constants the class declares (`trains_base_weights = True`), inherited ones too.
    """

    target: str
    parameters: dict[str, Parameter]
    open: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    help: str = ""
    file: str = ""
    line: int = 0

    @property
    def class_path(self) -> Parameter | None:
        """The key that names a library class whose options are accepted too."""
        if not self.open:
            return None
        return next((p for p in self.parameters.values() if p.is_class_path), None)


class NoSuchClass(LookupError):
    """A dotted name that leads nowhere. `missing` is the package that is not installed, if that is why."""

    def __init__(self, target: str, nearest: list[str], missing: str | None = None) -> None:
        super().__init__(target)
        self.target, self.nearest, self.missing = target, nearest, missing


@cache
def read(target: str) -> Signature:
    """The signature of the class or function that a dotted name leads to.

    Raises:
        NoSuchClass: when there is no such package, module or class.
    """
    found = source.locate(target)
    if found is None or not isinstance(found.node, (ast.ClassDef, ast.FunctionDef)):
        raise _no_such(target)
    if isinstance(found.node, ast.FunctionDef):
        parameters, open_ = _arguments(found.node, found, skip=0)
        attributes: dict[str, Any] = {}
    else:
        parameters, open_ = _constructor(found)
        attributes = _attributes(found)
    doc = ast.get_docstring(found.node) or ""
    return Signature(
        target, parameters, open_, attributes, doc.split("\n\n")[0].strip(),
        str(found.module.file), found.line,
    )  # fmt: skip


def _no_such(target: str) -> NoSuchClass:
    top = target.split(".")[0]
    if not source.installed(top):
        return NoSuchClass(target, [], missing=top)
    owner, _, name = target.rpartition(".")
    while owner and source.locate(owner) is None:
        owner, _, name = owner.rpartition(".")
    found = source.locate(owner) if owner else None
    names: list[str] = []
    if found and found.node is None:
        names = source.public_names(found.module)
        if found.module.file.name == "__init__.py":
            names += [p.stem for p in found.module.file.parent.iterdir() if p.stem[0] not in "_."]
    near = difflib.get_close_matches(name, sorted(set(names)), 3, 0.5)
    return NoSuchClass(target, [f"{owner}.{n}" for n in near])


def _constructor(found: Definition) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a class: its own `__init__`, its dataclass fields, or what it inherits."""
    node = found.node
    assert isinstance(node, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _arguments(item, found, skip=1)
    if hints.is_dataclass(node):
        return _fields(found), False
    for base in _bases(found):
        if isinstance(base.node, ast.ClassDef):
            return _constructor(base)
    return {}, False


def _bases(found: Definition) -> list[Definition]:
    bases = [source.resolve_expr(found.module, b) for b in getattr(found.node, "bases", [])]
    return [b for b in bases if b is not None and b.node is not found.node]


def _fields(found: Definition) -> dict[str, Parameter]:
    """Dataclass fields in order, those of the bases first."""
    fields: dict[str, Parameter] = {}
    for base in reversed(_bases(found)):
        if "dataclass" in base.module.text:
            fields.update(_fields(base))
    if not hints.is_dataclass(found.node):
        return fields
    assert isinstance(found.node, ast.ClassDef)
    docs = _documented(ast.get_docstring(found.node) or "")
    for item in found.node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            parameter = _field(item, item.target.id, found)
            if parameter is None:
                fields.pop(item.target.id, None)
            else:
                help_ = parameter.help or docs.get(parameter.name, "")
                fields[parameter.name] = replace(parameter, help=help_)
    return fields


def _field(item: ast.AnnAssign, name: str, found: Definition) -> Parameter | None:
    """One dataclass field; None for what `__init__` does not take (ClassVar, init=False)."""
    words = ast.unparse(item.annotation)
    if any(word in words for word in ("ClassVar", "InitVar", "KW_ONLY")):
        return None
    default: Any = REQUIRED
    text = _comment(item, found.module)
    value = item.value
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field":
        options = {k.arg: k.value for k in value.keywords if k.arg}
        init = options.get("init")
        if isinstance(init, ast.Constant) and init.value is False:
            return None
        default = _field_default(options, found.module)
        text = _metadata_help(options.get("metadata")) or text
    elif value is not None:
        default = _value(value, found.module)
    return _parameter(name, item.annotation, default, text, found)


def _field_default(options: dict[str, ast.expr], module: Module) -> Any:
    if "default" in options:
        return _value(options["default"], module)
    factory = options.get("default_factory")
    if factory is None:
        return REQUIRED
    if isinstance(factory, ast.Name) and factory.id in ("list", "dict", "tuple", "set"):
        return {} if factory.id == "dict" else []
    if isinstance(factory, ast.Lambda):
        return _value(factory.body, module)
    return Computed(ast.unparse(factory))


def _metadata_help(expr: ast.expr | None) -> str:
    if not isinstance(expr, ast.Dict):
        return ""
    for key, value in zip(expr.keys, expr.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "help":
            try:
                return " ".join(str(ast.literal_eval(value)).split())
            except ValueError:
                return ""
    return ""


def _arguments(
    node: ast.FunctionDef, found: Definition, skip: int
) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a function, without `self`; and whether it takes `**options`."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    gap: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*gap, *arguments.defaults], strict=True))[skip:]
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    docs = _documented(ast.get_docstring(found.node) or "") if found.node else {}  # type: ignore[arg-type]
    docs |= _documented(ast.get_docstring(node) or "")
    parameters = {}
    for argument, value in pairs:
        default = REQUIRED if value is None else _value(value, found.module)
        text = _comment(argument, found.module) or docs.get(argument.arg, "")
        parameters[argument.arg] = _parameter(
            argument.arg, argument.annotation, default, text, found
        )
    return parameters, arguments.kwarg is not None


def _parameter(
    name: str, annotation: ast.expr | None, default: Any, text: str, found: Definition
) -> Parameter:
    kind = hints.evaluate(annotation, found.module)
    if annotation is None:
        kind = _guess(default)
    nested = hints.names_class(annotation, found.module)
    return Parameter(
        name, kind, ast.unparse(annotation) if annotation else "", default, text, found.dotted,
        nested.dotted if nested else None, hints.is_class_path(annotation),
    )  # fmt: skip


def _guess(default: Any) -> Any:
    """The type of an argument that has a default but no annotation."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return float if isinstance(default, float) else int | float
    if isinstance(default, list) and default and all(isinstance(v, float) for v in default):
        return tuple[tuple(float for _ in default)]  # type: ignore[misc]
    return Any


def _value(expr: ast.expr, module: Module) -> Any:
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
            return _value(found.node.value, found.module)
    return Computed(ast.unparse(expr))


def _attributes(found: Definition) -> dict[str, Any]:
    """Constants declared in the class body; the nearest class wins."""
    values: dict[str, Any] = {}
    for base in reversed(_bases(found)):
        if isinstance(base.node, ast.ClassDef):
            values |= _attributes(base)
    for item in getattr(found.node, "body", []):
        name, value = None, None
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            name, value = item.targets[0].id, item.value
        elif isinstance(item, ast.AnnAssign) and "ClassVar" in ast.unparse(item.annotation):
            name, value = ast.unparse(item.target), item.value
        if name and value is not None:
            values[name] = _value(value, found.module)
    return {k: v for k, v in values.items() if not isinstance(v, Computed)}


def _comment(node: ast.stmt | ast.arg, module: Module) -> str:
    """The help beside a field: its trailing `# text`, or the `#: text` lines above it."""
    lines = module.text.splitlines()
    end = node.end_lineno or node.lineno
    block = textwrap.dedent("\n".join(lines[node.lineno - 1 : end]))
    if "#" in lines[end - 1]:
        comments = [t.string for t in _tokens(block) if t.type == tokenize.COMMENT]
        if comments:
            return comments[-1].lstrip("#: ").strip()
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        above.insert(0, line.strip()[2:].strip())
    return " ".join(above)


def _tokens(block: str) -> list[tokenize.TokenInfo]:
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(block).readline):
            tokens.append(token)
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass  # an argument is only a piece of a statement
    return tokens


_ENTRY = re.compile(r"^\s+`{0,2}(\w+)`{0,2}\s*(?:\([^\n]*\))?\s*:\s*(.*)$")


def _documented(doc: str) -> dict[str, str]:
    """Name -> first line of its text in the `Args:` part of a docstring."""
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
