"""What a key is: type, default, meaning, and which options of its group take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.config import hints, job, paths, schema, signature
from ftcli.config.defaults import Computed
from ftcli.config.display import scalar
from ftcli.config.keys import TARGET, Keys, keys_of
from ftcli.config.nearest import nearest_key
from ftcli.config.option import content
from ftcli.config.signature import NoSuchClass, Parameter
from ftcli.core.errors import UserError


@dataclass(frozen=True)
class Meaning:
    """One key as documentation.

    Attributes:
        key: dotted, as typed on the command line.
        type: in words.
        default: in YAML; "required" where it must be given.
        help: one sentence.
        options: the options of the group whose class takes it.
        schema: JSON schema of its value.
    """

    key: str
    type: str
    default: str
    help: str
    options: list[str]
    schema: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(self.__dict__)


def meanings(key: str) -> list[Meaning]:
    """The key, or every key of the group (or option, `method=vera`) that is named.

    Raises:
        UserError: no such group or key; names the nearest.
    """
    key = key.removesuffix(".")
    group, _, name = key.partition(".")
    group, _, option = group.partition("=")
    top = signature.read(job.TARGET).parameters
    if group in top and not name:
        return _settings(group, top[group])
    if group == "run":
        found = {m.key: m for m in _settings("run", top["run"])}
        return [_one(found, key)]
    if paths.group_of(group) is None:
        raise _no_key(key, [*paths.groups(), *top])
    group = str(paths.group_of(group))
    by_key = _of_group(group, option or None)
    return [_one(by_key, f"{group}.{name}")] if name else list(by_key.values())


def _one(found: Mapping[str, Meaning], key: str) -> Meaning:
    if key in found:
        return found[key]
    group, _, name = key.partition(".")
    starred = f"{group}.*.{name.rpartition('.')[2]}"  # eval.loss.limit is eval.*.limit
    if starred in found:
        return found[starred]
    raise _no_key(key, found)


def _no_key(key: str, known: Any) -> UserError:
    group, _, name = key.rpartition(".")
    near = nearest_key(name, [k.rpartition(".")[2] for k in known])
    meant = next((k for k in known if k.rpartition(".")[2] == near), None)
    hint = f" Did you mean {meant}?" if meant else ""
    return UserError(f"there is no key {key}.{hint}", fix=f"ftcli schema {group}".strip())


def _settings(key: str, parameter: Parameter) -> list[Meaning]:
    if parameter.nested:
        inner = signature.read(parameter.nested).parameters
        return [_meaning(f"{key}.{name}", p, []) for name, p in inner.items()]
    return [_meaning(key, parameter, [])]


def _of_group(group: str, only: str | None) -> dict[str, Meaning]:
    """Keys of all options of a group, each with the options that take it."""
    found: dict[str, tuple[Parameter, list[str]]] = {}
    for option, key, keys in _classes(group):
        if only and option != only:
            continue
        for name, parameter in keys.parameters.items():
            found.setdefault(f"{key}.{name}", (parameter, []))[1].append(option)
    if not found:
        raise UserError(f"there is no {group}={only}.", fix=f"ftcli ls {paths.plural(group)}")
    return {key: _meaning(key, p, sorted(set(options))) for key, (p, options) in found.items()}


def _classes(group: str) -> list[tuple[str, str, Keys]]:
    """Option, dotted place and keys of every class that the options of a group name."""
    found = []
    for option, file in paths.options(group).items():
        written = content(file)
        alone = TARGET in written
        for node in [written] if alone else written.values():
            if isinstance(node, Mapping) and TARGET in node:
                try:
                    found.append((option, group if alone else f"{group}.*", keys_of(node)))
                except NoSuchClass:
                    continue
    return found


def _meaning(key: str, parameter: Parameter, options: list[str]) -> Meaning:
    if parameter.required:
        default = "required"
    elif isinstance(parameter.default, Computed):
        default = parameter.default.text
    else:
        default = scalar(parameter.default)
    kind = "a mapping" if parameter.nested else hints.describe(parameter.type)
    return Meaning(key, kind, default, parameter.help, options, schema.of_type(parameter))
