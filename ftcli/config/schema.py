"""A JSON schema of the whole job, for editors: what every group and every key may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from ftcli.config import job, paths, signature
from ftcli.config.keys import TARGET, keys_of
from ftcli.config.option import content
from ftcli.config.signature import NoSuchClass, Parameter

#: What may stand in the place of any value: an interpolation, or `???` for "to be given".
_LATER = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}


def job_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) that a job, with or without defaults list, satisfies."""
    top = signature.read(job.TARGET).parameters
    properties: dict[str, Any] = {name: _key([parameter]) for name, parameter in top.items()}
    properties["defaults"] = _defaults()
    properties[job.REQUIRES] = {"type": "object", "description": "Key -> values it must have."}
    properties["hydra"] = {"type": "object"}
    for group in paths.groups():
        if group not in top:
            collection = group in job.COLLECTIONS
            properties[group] = _collection(group) if collection else _node(_nodes(group), group)
    properties["model"]["properties"]["from_recipe"] = {
        "type": "string",
        "description": "Recipe of a base, trained once; stands for the path of its weights.",
    }
    own, definitions = _of_recipe()
    properties |= own
    return {
        "$defs": definitions,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ftcli job",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _of_recipe() -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe's keys beside the job, and the definitions they refer to."""
    from ftcli.config.recipe import Recipe

    schema = TypeAdapter(Recipe).json_schema()
    keys = {name: schema["properties"][name] for name in job.RECIPE}
    return keys, schema["$defs"]


def _defaults() -> dict[str, Any]:
    """The defaults list: one entry a group, or the name of another job."""
    picks: dict[str, Any] = {}
    for group in paths.groups():
        known = {"enum": [*paths.options(group), "???"]}
        listed = {"type": "array", "items": known}
        pick = {"anyOf": [known, listed, {"type": "null"}]}
        picks |= {group: pick, f"override {group}": pick, f"optional {group}": pick}
    entry = {"type": "object", "properties": picks, "maxProperties": 1}
    return {
        "type": "array",
        "description": "An option of each group; _self_ is where this file's own keys come.",
        "items": {"anyOf": [{"type": "string"}, entry]},
    }


def _nodes(group: str) -> list[dict[str, Any]]:
    """The content of every option of a group."""
    return [content(file) for file in paths.options(group).values()]


def _node(nodes: Iterable[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """One object: the keys of all classes that the options of its group name."""
    keys: dict[str, list[Parameter]] = {}
    targets, is_open = [], False
    for node in nodes:
        if not isinstance(node.get(TARGET), str):
            continue
        targets.append(node[TARGET])
        try:
            found = keys_of(node)
        except NoSuchClass:
            is_open = True
            continue
        is_open |= found.open
        for name, parameter in found.parameters.items():
            keys.setdefault(name, []).append(parameter)
    properties: dict[str, Any] = {
        TARGET: {"enum": sorted(set(targets)), "description": f"The class of the {what}."},
        **{key: {"type": "object"} for key in job.UNREAD},
    }
    properties |= {name: _key(parameters) for name, parameters in keys.items()}
    return {"type": "object", "properties": properties, "additionalProperties": is_open}


def _collection(group: str) -> dict[str, Any]:
    inner = [
        node
        for option in _nodes(group)
        for node in option.values()
        if isinstance(node, Mapping) and TARGET in node
    ]
    each = {"anyOf": [_node(inner, group), {"type": "null"}]}
    return {"type": "object", "additionalProperties": each}


def _key(parameters: list[Parameter]) -> dict[str, Any]:
    """One key; classes of a group that share its name may differ in type."""
    shapes: list[dict[str, Any]] = []
    for parameter in parameters:
        shape = of_type(parameter)
        if shape not in shapes:
            shapes.append(shape)
    if {} in shapes:
        found: dict[str, Any] = {}
    else:
        found = {"anyOf": [*shapes, _LATER]}
    first = parameters[0]
    if first.help:
        found["description"] = first.help
    if first.has_value and all(p.default == first.default for p in parameters):
        found["default"] = first.default
    return found


def of_type(parameter: Parameter) -> dict[str, Any]:
    """JSON schema of one key's type; {} where anything is accepted."""
    if parameter.nested:
        inner = signature.read(parameter.nested)
        shape: dict[str, Any] = {
            "type": "object",
            "properties": {name: _key([p]) for name, p in inner.parameters.items()},
            "additionalProperties": inner.open,
        }
        return {"anyOf": [shape, {"type": "null"}]} if parameter.default is None else shape
    try:
        return TypeAdapter(parameter.type).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
