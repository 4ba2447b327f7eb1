"""Documentation of the keys: a JSON schema of the whole job for editors, and the help of one key."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from ftcli.config import job, paths, signature
from ftcli.config.annotations import describe_type
from ftcli.config.display import format_scalar
from ftcli.config.job import TARGET, Keys, read_keys
from ftcli.config.parameter_docs import ComputedDefault
from ftcli.config.paths import find_nearest
from ftcli.config.signature import NoSuchClass, Parameter
from ftcli.config.suggestions import find_nearest_key
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import UserError

#: Schema of what may replace any value: an interpolation, or `???` for a value left open.
_OPEN_VALUE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}


def build_job_schema() -> dict[str, Any]:
    """Build the JSON schema (draft 2020-12) of jobs, with or without a defaults list."""
    top = signature.read_signature(job.JOB_SETTINGS_CLASS).parameters
    properties: dict[str, Any] = {
        name: _build_key_schema([parameter]) for name, parameter in top.items()
    }
    properties["defaults"] = _build_defaults_schema()
    properties[job.REQUIRES] = {"type": "object", "description": "Key -> values it must have."}
    properties["hydra"] = {"type": "object"}
    for group in paths.list_groups():
        if group not in top:
            collection = group in job.COLLECTIONS
            properties[group] = (
                _build_collection_schema(group)
                if collection
                else _build_node_schema(_read_options(group), group)
            )
    properties["model"]["properties"]["from_recipe"] = {
        "type": "string",
        "description": "Recipe of a base, trained once; stands for the path of its weights.",
    }
    recipe_properties, definitions = _build_recipe_schema()
    properties |= recipe_properties
    return {
        "$defs": definitions,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ftcli job",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _build_recipe_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """Build the schemas of a recipe's keys beside the job, and the definitions that they refer to."""
    from ftcli.config.recipe import Recipe

    schema = TypeAdapter(Recipe).json_schema()
    properties = {name: schema["properties"][name] for name in job.RECIPE_KEYS}
    return properties, schema["$defs"]


def _build_defaults_schema() -> dict[str, Any]:
    """Build the schema of the defaults list: one entry for each group, or the name of another job."""
    picks: dict[str, Any] = {}
    for group in paths.list_groups():
        known = {"enum": [*paths.list_options(group), "???"]}
        listed = {"type": "array", "items": known}
        pick = {"anyOf": [known, listed, {"type": "null"}]}
        picks |= {group: pick, f"override {group}": pick, f"optional {group}": pick}
    entry = {"type": "object", "properties": picks, "maxProperties": 1}
    return {
        "type": "array",
        "description": "An option of each group; _self_ is where this file's own keys come.",
        "items": {"anyOf": [{"type": "string"}, entry]},
    }


def _read_options(group: str) -> list[dict[str, Any]]:
    """Return the content of every option of a group."""
    return [read_option(file) for file in paths.list_options(group).values()]


def _build_node_schema(nodes: Iterable[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """Build the schema of one object: the keys of all classes that the options of its group name."""
    keys: dict[str, list[Parameter]] = {}
    targets, accepts_more = [], False
    for node in nodes:
        if not isinstance(node.get(TARGET), str):
            continue
        targets.append(node[TARGET])
        try:
            node_keys = read_keys(node)
        except NoSuchClass:
            accepts_more = True
            continue
        accepts_more |= node_keys.accepts_more
        for name, parameter in node_keys.parameters.items():
            keys.setdefault(name, []).append(parameter)
    properties: dict[str, Any] = {
        TARGET: {"enum": sorted(set(targets)), "description": f"The class of the {what}."},
        **{key: {"type": "object"} for key in job.KEYS_NOT_PASSED},
    }
    properties |= {name: _build_key_schema(parameters) for name, parameters in keys.items()}
    return {"type": "object", "properties": properties, "additionalProperties": accepts_more}


def _build_collection_schema(group: str) -> dict[str, Any]:
    inner = [
        node
        for option in _read_options(group)
        for node in option.values()
        if isinstance(node, Mapping) and TARGET in node
    ]
    each = {"anyOf": [_build_node_schema(inner, group), {"type": "null"}]}
    return {"type": "object", "additionalProperties": each}


def _build_key_schema(parameters: list[Parameter]) -> dict[str, Any]:
    """Build the schema of one key, which classes of a group may have with different types."""
    shapes: list[dict[str, Any]] = []
    for parameter in parameters:
        shape = build_type_schema(parameter)
        if shape not in shapes:
            shapes.append(shape)
    if {} in shapes:
        key_schema: dict[str, Any] = {}
    else:
        key_schema = {"anyOf": [*shapes, _OPEN_VALUE]}
    first = parameters[0]
    if first.help:
        key_schema["description"] = first.help
    if first.has_value and all(p.default == first.default for p in parameters):
        key_schema["default"] = first.default
    return key_schema


def build_type_schema(parameter: Parameter) -> dict[str, Any]:
    """Build the JSON schema of one key's type; {} where any value is accepted."""
    if parameter.nested:
        inner = signature.read_signature(parameter.nested)
        shape: dict[str, Any] = {
            "type": "object",
            "properties": {name: _build_key_schema([p]) for name, p in inner.parameters.items()},
            "additionalProperties": inner.accepts_more,
        }
        if parameter.nested_in == "list":
            shape = {"type": "array", "items": shape}
        elif parameter.nested_in == "dict":
            shape = {"type": "object", "additionalProperties": shape}
        return {"anyOf": [shape, {"type": "null"}]} if parameter.default is None else shape
    try:
        return TypeAdapter(parameter.type).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}


@dataclass(frozen=True)
class KeyDescription:
    """The documentation of one key.

    Attributes:
        key: dotted key, as typed on the command line.
        type: type in words.
        default: default in YAML; "required" without one.
        help: one sentence.
        options: options of the group whose class accepts the key.
        schema: JSON schema of the value.
    """

    key: str
    type: str
    default: str
    help: str
    options: list[str]
    schema: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return dict(self.__dict__)


def describe_keys(key: str) -> list[KeyDescription]:
    """Describe a key, or every key of a group, of an option (`method=vera`) or of a named object (`eval.loss`).

    Raises:
        UserError: there is no such group or key; names the nearest.
    """
    key = key.removesuffix(".")
    group, _, name = key.partition(".")
    group, _, option = group.partition("=")
    top = signature.read_signature(job.JOB_SETTINGS_CLASS).parameters
    if group in top and not name:
        return _describe_setting(group, top[group])
    if group == "run":
        return _find_keys({m.key: m for m in _describe_setting("run", top["run"])}, key)
    if paths.find_group(group) is None:
        raise _make_unknown_error(key, [*paths.list_groups(), *top])
    group = str(paths.find_group(group))
    by_key = _describe_group(group, option or None)
    return _find_keys(by_key, f"{group}.{name}") if name else list(by_key.values())


def _find_keys(descriptions: Mapping[str, KeyDescription], key: str) -> list[KeyDescription]:
    """Return the key of that name, or the keys of the object of that name.

    A job may give an object of a collection a name of its own (`eval.mine.limit`): the key as each object has it.
    """
    if key in descriptions:
        return [descriptions[key]]
    group, *middle, name = key.split(".")
    alike = [d for k, d in descriptions.items() if k.rpartition(".")[0] == key]
    if not alike and group in job.COLLECTIONS and middle:
        owners = {k.rpartition(".")[0] for k in descriptions}
        if f"{group}.{middle[0]}" not in owners:
            alike = [d for k, d in descriptions.items() if k.rpartition(".")[2] == name]
    if not alike:
        raise _make_unknown_error(key, [*descriptions, *_list_objects(descriptions)])
    return alike


def _list_objects(keys: Iterable[str]) -> list[str]:
    """Return the named objects of a collection (`callback.ema`) that keys belong to."""
    return list(dict.fromkeys(k.rpartition(".")[0] for k in keys if k.count(".") > 1))


def _make_unknown_error(key: str, known: Collection[str]) -> UserError:
    parent, _, name = key.rpartition(".")
    near = find_nearest_key(name, [k.rpartition(".")[2] for k in known])
    alike = [k for k in known if k.rpartition(".")[2] == near]
    suggestion = next(iter([*find_nearest(key, alike, 1), *alike]), None)
    hint = f" Did you mean {suggestion}?" if suggestion else ""
    if parent not in known:
        parent = parent.partition(".")[0]
    return UserError(f"there is no key {key}.{hint}", fix=f"ftcli schema {parent}".strip())


def _describe_setting(key: str, parameter: Parameter) -> list[KeyDescription]:
    if parameter.nested:
        inner = signature.read_signature(parameter.nested).parameters
        place = {"list": f"{key}.<number>", "dict": f"{key}.<name>"}.get(
            parameter.nested_in or "", key
        )
        return [_describe_parameter(f"{place}.{name}", p, []) for name, p in inner.items()]
    return [_describe_parameter(key, parameter, [])]


def _describe_group(group: str, only: str | None) -> dict[str, KeyDescription]:
    """Describe the keys of a group's options, or of the option `only`, each with the options that have it."""
    parameters: dict[str, tuple[Parameter, list[str]]] = {}
    for option, key, keys in _list_classes(group):
        if only and option != only:
            continue
        for name, parameter in keys.parameters.items():
            parameters.setdefault(f"{key}.{name}", (parameter, []))[1].append(option)
    if not parameters:
        raise UserError(
            f"there is no {group}={only}.", fix=f"ftcli ls {paths.pluralize_group(group)}"
        )
    return {
        key: _describe_parameter(key, p, sorted(set(options)))
        for key, (p, options) in parameters.items()
    }


def _list_classes(group: str) -> list[tuple[str, str, Keys]]:
    """Return option, dotted place and keys of every class that the options of a group name."""
    classes = []
    for option, file in paths.list_options(group).items():
        content = read_option(file)
        is_single = TARGET in content
        places = {group: content} if is_single else {f"{group}.{n}": v for n, v in content.items()}
        for place, node in places.items():
            if isinstance(node, Mapping) and TARGET in node:
                try:
                    classes.append((option, place, read_keys(node)))
                except NoSuchClass:
                    continue
    return sorted(classes, key=lambda found: found[1])  # the keys of one object together


def _describe_parameter(key: str, parameter: Parameter, options: list[str]) -> KeyDescription:
    if parameter.required:
        default = "required"
    elif isinstance(parameter.default, ComputedDefault):
        default = parameter.default.text
    else:
        default = format_scalar(parameter.default)
    kind = "a mapping" if parameter.nested else describe_type(parameter.type)
    return KeyDescription(key, kind, default, parameter.help, options, build_type_schema(parameter))
