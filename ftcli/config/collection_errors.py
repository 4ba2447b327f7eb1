"""Errors for names and keys of the groups that map names to objects: `callback`, `eval`, `logger`, `penalty`.

`callback.early_stopping.patience=3` needs `callback=early_stopping`, and `callback.patience=3` the name of a callback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.config import overrides, paths
from ftcli.config.job import COMMAND_LINE, TARGET, ComposedJob, iter_leaves, read_keys
from ftcli.config.paths import find_nearest
from ftcli.config.signature import NoSuchClass
from ftcli.config.suggestions import find_nearest_key
from ftcli.config.yaml_locations import read_option
from ftcli.core.errors import UserError


def explain_incomplete_member(composed: ComposedJob, group: str, name: str) -> UserError:
    """Return the error for an entry of a collection that has no class: an option not chosen, a name misspelt, a key."""
    node = composed.config[group][name]
    chosen = {n: v for n, v in composed.config[group].items() if _is_object(v)}
    known = f" (it has {', '.join(chosen)})" if chosen else ""
    what = f"{composed.format_choice(group)} has no '{name}'{known}."
    fix = f"pick one: {group}=NAME with a name of `ftcli ls {paths.pluralize_group(group)}`"
    if isinstance(node, Mapping):
        hint, way = _suggest_name(composed, group, name, node, list(chosen))
    else:
        hint, way = _suggest_member(composed, group, name, node, chosen)
    return UserError(what + hint, composed.where(f"{group}.{name}"), way or fix)


def _is_object(node: Any) -> bool:
    return isinstance(node, Mapping) and TARGET in node


def _suggest_name(
    composed: ComposedJob, group: str, name: str, node: Mapping[str, Any], chosen: list[str]
) -> tuple[str, str]:
    """Return hint and fix for settings of an object that the job does not have."""
    options = _list_members(group)
    near = name if name in options else next(iter(find_nearest(name, [*chosen, *options], 1)), None)
    if near is None:
        return "", ""
    hint = "" if near == name else f" Did you mean {group}.{near}?"
    return hint, _format_fix(composed, group, name, near, dict(iter_leaves(node)))


def _suggest_member(
    composed: ComposedJob, group: str, typed: str, value: Any, chosen: Mapping[str, Any]
) -> tuple[str, str]:
    """Return hint and fix for a key that was written without the name of its object; chosen objects come first."""
    for nodes in (chosen, _list_members(group)):
        keys = {name: _list_keys(node) for name, node in nodes.items()}
        near = find_nearest_key(typed, {k for inner in keys.values() for k in inner})
        owners = [name for name, inner in keys.items() if near in inner]
        if near and owners:
            meant = " or ".join(f"{group}.{name}.{near}" for name in owners[:3])
            if nodes is not chosen and len(owners) > 1:
                key, options = f"{group}.NAME.{near}", paths.list_options(group)
                fix = f"{group}=NAME {overrides.format_override(key, value)}, where NAME is one of "
                return f" Did you mean {meant}?", fix + ", ".join(n for n in owners if n in options)
            fixes = [_format_fix(composed, group, typed, name, {near: value}) for name in owners]
            return f" Did you mean {meant}?", ", or ".join(fixes[:3])
    return "", ""


def _list_members(group: str) -> dict[str, Mapping[str, Any]]:
    """Return the objects that the options of a group bring, by name; those of the option of that name come first."""
    members: dict[str, Mapping[str, Any]] = {}
    for option, name, node in _iter_members(group):
        if name not in members or option == name:
            members[name] = node
    return members


def _iter_members(group: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for option, file in paths.list_options(group).items():
        for name, node in read_option(file).items():
            if _is_object(node):
                yield option, name, node


def _list_keys(node: Mapping[str, Any]) -> list[str]:
    try:
        return list(read_keys(node).parameters)
    except NoSuchClass:
        return []


def _format_fix(
    composed: ComposedJob, group: str, typed: str, name: str, values: Mapping[str, Any]
) -> str:
    """Return how the settings of the object `name` are written where the job has `typed`, its option included."""
    missing = not _is_object(composed.config[group].get(name))
    if composed.origin(f"{group}.{typed}") == COMMAND_LINE:
        words = [_choose_option(composed, group, name)] if missing else []
        words += [
            overrides.format_override(f"{group}.{name}.{key}", value)
            for key, value in values.items()
        ]
        return " ".join(words)
    settings = overrides.format_value(dict(values)).replace(":", ": ").replace(",", ", ")
    line = f"write `{name}: {settings}` under `{group}:`"
    if not missing:
        return line
    chosen = _choose_option(composed, group, name).strip("'")
    override = "override " if group in composed.choices else ""
    entry = f"`- {override}{chosen.replace('=', ': ').replace(',', ', ')}` in its defaults list"
    return f"{entry}, or {chosen} on the command line" if name == typed else f"{line}, and {entry}"


def _choose_option(composed: ComposedJob, group: str, name: str) -> str:
    """Return the override that adds the option with the object `name` to those that are chosen."""
    options = [option for option, member, _ in _iter_members(group) if member == name]
    wanted = name if name in options or not options else options[0]
    files = paths.list_options(group)
    chosen = [  # but for `none`, which has no object
        option
        for option in composed.collection_options.get(group, [])
        if option not in files or read_option(files[option])
    ]
    return overrides.format_override(group, [*chosen, wanted] if chosen else wanted)
