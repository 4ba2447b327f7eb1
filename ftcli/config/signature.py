"""Read the keys that a class accepts from its source, without importing it: names, types, defaults, help.

The keys are the fields of a dataclass, inherited ones included, or the arguments of `__init__`, of
ftcli's own classes and of library classes such as `peft.LoraConfig` or `torch.optim.AdamW`.
"""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from ftcli.config import class_lookup
from ftcli.config.annotations import evaluate_annotation, find_dataclass, is_class_path
from ftcli.config.class_lookup import Definition, is_dataclass
from ftcli.config.parameter_docs import (
    REQUIRED,
    ComputedDefault,
    evaluate_default,
    evaluate_field_default,
    infer_type,
    parse_docstring,
    read_field_comment,
    read_metadata_help,
)


@dataclass(frozen=True)
class Parameter:
    """A key of a class: a dataclass field or an argument of `__init__`."""

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
    def nested_in(self) -> str | None:
        """The container of `nested` dataclasses: list (`list[EvaConfig]`), dict (by name), or None."""
        names = re.findall(r"\b(list|List|Sequence|dict|Dict|Mapping)\[", self.annotation)
        if not self.nested or not names:
            return None
        return "dict" if names[0] in ("dict", "Dict", "Mapping") else "list"

    @property
    def has_value(self) -> bool:
        """Whether the default is a plain value that can be written into a configuration."""
        return not self.required and not isinstance(self.default, ComputedDefault)


@dataclass(frozen=True)
class Signature:
    """The keys that a class or function accepts.

    Attributes:
        target: dotted name that was read.
        parameters: key -> Parameter.
        accepts_more: whether further keys are accepted (`**options`).
        attributes: constants of the class body (`uses_backward = False`), inherited ones included.
    """

    target: str
    parameters: dict[str, Parameter]
    accepts_more: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    help: str = ""
    file: str = ""
    line: int = 0

    @property
    def library_parameter(self) -> Parameter | None:
        """The key that names a library class whose options are accepted too, if there is one."""
        if not self.accepts_more:
            return None
        return next((p for p in self.parameters.values() if p.is_class_path), None)


class NoSuchClass(LookupError):
    """There is no class of a dotted name. `missing_package` is its package if that is not installed."""

    def __init__(
        self, target: str, nearest_names: list[str], missing_package: str | None = None
    ) -> None:
        super().__init__(target)
        self.target, self.nearest_names, self.missing_package = (
            target,
            nearest_names,
            missing_package,
        )


@cache
def read_signature(target: str) -> Signature:
    """Read the signature of the class or function of a dotted name.

    Raises:
        NoSuchClass: there is no such package, module or class.
    """
    definition = class_lookup.find_definition(target)
    if definition is None or not isinstance(definition.node, (ast.ClassDef, ast.FunctionDef)):
        raise _make_missing_error(target)
    if isinstance(definition.node, ast.FunctionDef):
        parameters, accepts_more = _read_arguments(definition.node, definition, skip=0)
        attributes: dict[str, Any] = {}
    else:
        parameters, accepts_more = _read_constructor(definition)
        attributes = _read_attributes(definition)
    doc = ast.get_docstring(definition.node) or ""
    return Signature(
        target, parameters, accepts_more, attributes, doc.split("\n\n")[0].strip(),
        str(definition.module.file), definition.line,
    )  # fmt: skip


def _make_missing_error(target: str) -> NoSuchClass:
    top = target.split(".")[0]
    if not class_lookup.is_installed(top):
        return NoSuchClass(target, [], missing_package=top)
    owner, _, name = target.rpartition(".")
    while owner and class_lookup.find_definition(owner) is None:
        owner, _, name = owner.rpartition(".")
    module = class_lookup.find_definition(owner) if owner else None
    names: list[str] = []
    if module and module.node is None:
        names = class_lookup.list_public_names(module.module)
        if module.module.file.name == "__init__.py":
            names += [p.stem for p in module.module.file.parent.iterdir() if p.stem[0] not in "_."]
    near = difflib.get_close_matches(name, sorted(set(names)), 3, 0.5)
    return NoSuchClass(target, [f"{owner}.{n}" for n in near])


def _read_constructor(definition: Definition) -> tuple[dict[str, Parameter], bool]:
    """Return the parameters of a class, from its `__init__`, fields or bases, and whether it accepts further keys (`**options`)."""
    node = definition.node
    assert isinstance(node, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _read_arguments(item, definition, skip=1)
    if is_dataclass(node):
        return _read_fields(definition), False
    for base in _find_bases(definition):
        if isinstance(base.node, ast.ClassDef):
            return _read_constructor(base)
    return {}, False


def _find_bases(definition: Definition) -> list[Definition]:
    bases = [
        class_lookup.resolve_expr(definition.module, b)
        for b in getattr(definition.node, "bases", [])
    ]
    return [b for b in bases if b is not None and b.node is not definition.node]


def _read_fields(definition: Definition) -> dict[str, Parameter]:
    """Return the dataclass fields in order, those of the bases first."""
    fields: dict[str, Parameter] = {}
    for base in reversed(_find_bases(definition)):
        if "dataclass" in base.module.text:
            fields.update(_read_fields(base))
    if not is_dataclass(definition.node):
        return fields
    assert isinstance(definition.node, ast.ClassDef)
    docs = parse_docstring(ast.get_docstring(definition.node) or "")
    for item in definition.node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            parameter = _read_field(item, item.target.id, definition)
            if parameter is None:
                fields.pop(item.target.id, None)
            else:
                help_ = parameter.help or docs.get(parameter.name, "")
                fields[parameter.name] = replace(parameter, help=help_)
    return fields


def _read_field(item: ast.AnnAssign, name: str, definition: Definition) -> Parameter | None:
    """Read one dataclass field; None for one that `__init__` does not accept (ClassVar, init=False)."""
    words = ast.unparse(item.annotation)
    if any(word in words for word in ("ClassVar", "InitVar", "KW_ONLY")):
        return None
    default: Any = REQUIRED
    text = read_field_comment(item, definition.module)
    value = item.value
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field":
        options = {k.arg: k.value for k in value.keywords if k.arg}
        init = options.get("init")
        if isinstance(init, ast.Constant) and init.value is False:
            return None
        default = evaluate_field_default(options, definition.module)
        text = read_metadata_help(options.get("metadata")) or text
    elif value is not None:
        default = evaluate_default(value, definition.module)
    return _make_parameter(name, item.annotation, default, text, definition)


def _read_arguments(
    node: ast.FunctionDef, definition: Definition, skip: int
) -> tuple[dict[str, Parameter], bool]:
    """Return the parameters of a function without the first `skip`, and whether it takes `**options`."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    gap: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*gap, *arguments.defaults], strict=True))[skip:]
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    docs = parse_docstring(ast.get_docstring(definition.node) or "") if definition.node else {}  # type: ignore[arg-type]
    docs |= parse_docstring(ast.get_docstring(node) or "")
    parameters = {}
    for argument, value in pairs:
        default = REQUIRED if value is None else evaluate_default(value, definition.module)
        text = read_field_comment(argument, definition.module) or docs.get(argument.arg, "")
        parameters[argument.arg] = _make_parameter(
            argument.arg, argument.annotation, default, text, definition
        )
    return parameters, arguments.kwarg is not None


def _make_parameter(
    name: str, annotation: ast.expr | None, default: Any, text: str, definition: Definition
) -> Parameter:
    kind = evaluate_annotation(annotation, definition.module)
    if annotation is None:
        kind = infer_type(default)
    nested = find_dataclass(annotation, definition.module)
    return Parameter(
        name, kind, ast.unparse(annotation) if annotation else "", default, text, definition.dotted_name,
        nested.dotted_name if nested else None, is_class_path(annotation),
    )  # fmt: skip


def _read_attributes(definition: Definition) -> dict[str, Any]:
    """Return the constants declared in the class bodies; a class overrides its bases."""
    values: dict[str, Any] = {}
    for base in reversed(_find_bases(definition)):
        if isinstance(base.node, ast.ClassDef):
            values |= _read_attributes(base)
    for item in getattr(definition.node, "body", []):
        name, value = None, None
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            name, value = item.targets[0].id, item.value
        elif isinstance(item, ast.AnnAssign) and "ClassVar" in ast.unparse(item.annotation):
            name, value = ast.unparse(item.target), item.value
        if name and value is not None:
            values[name] = evaluate_default(value, definition.module)
    return {k: v for k, v in values.items() if not isinstance(v, ComputedDefault)}
