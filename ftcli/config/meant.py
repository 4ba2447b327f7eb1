"""The setting that a name from elsewhere means: `learning_rate` is `optimizer.lr`."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.config import job, paths, signature
from ftcli.config.keys import TARGET, keys_of
from ftcli.config.nearest import OTHER_NAMES, nearest
from ftcli.config.option import content
from ftcli.config.signature import NoSuchClass, Parameter
from ftcli.config.values import WrongType, normalised

OFF = ("none", "auto")


@dataclass(frozen=True)
class Setting:
    """A key of a job, with what it takes; without a parameter it is a group."""

    key: str
    parameter: Parameter | None = None

    def value(self, name: str, given: Any) -> tuple[Any, list[str]]:
        """What to write where a person wrote `given` for `name`, and the words that it may be instead.

        `bf16: true` is `precision: bf16`: a name that is one of the key's words is its value. Of
        words for something that is on or off here (`load_in_4bit: true`), the first that is so.
        """
        if self.parameter is None:
            return given, []
        words = list(_words(self.parameter.type))
        if given is True and name in words:
            return name, []
        try:
            normalised(given, self.parameter.type)
            return given, []
        except WrongType:
            fitting = [word for word in words if (word in OFF) == (given is False)] or words
            chosen = fitting[0] if fitting else "VALUE"
            return chosen, [word for word in words if word != chosen]


def setting(name: str, config: Mapping[str, Any]) -> Setting | None:
    """The setting of a job that a name means most likely; None where nothing is like it.

    Args:
        config: the job's; groups that it has not chosen are looked up in all their options.
    """
    known = {found.key: found for found in _settings(config)}
    by_name: dict[str, Setting] = {}
    for key, found in known.items():
        by_name.setdefault(key.rpartition(".")[2], found)
    for word in (name, OTHER_NAMES.get(name, name)):
        if word in known:
            return known[word]
        if word in by_name:
            return by_name[word]
    others = {other: own for other, own in OTHER_NAMES.items() if own in by_name or own in known}
    near = nearest(name, [*by_name, *others], 1)
    if not near:
        return None
    word = near[0] if near[0] in by_name else others[near[0]]
    return by_name.get(word) or known[word]


def _settings(config: Mapping[str, Any]) -> Iterator[Setting]:
    """Every key of a job: those of its groups, in the order in which they are asked, then its own."""
    for group in (*job.OBJECTS[::-1], *(g for g in paths.groups() if g not in job.OBJECTS)):
        yield Setting(group)
    for group in job.OBJECTS:
        node = config.get(group)
        nodes = [node] if isinstance(node, Mapping) and TARGET in node else _options(group)
        for one in nodes:
            yield from (Setting(f"{group}.{k}", p) for k, p in _parameters(one).items())
    for key, parameter in signature.read(job.TARGET).parameters.items():
        if parameter.nested:
            inner = signature.read(parameter.nested).parameters
            yield from (Setting(f"{key}.{k}", p) for k, p in inner.items())
        else:
            yield Setting(key, parameter)


def _options(group: str) -> Iterator[Mapping[str, Any]]:
    for file in paths.options(group).values():
        node = content(file)
        if isinstance(node.get(TARGET), str):
            yield node


def _parameters(node: Mapping[str, Any]) -> dict[str, Parameter]:
    try:
        return keys_of(node).parameters
    except NoSuchClass:
        return {}


def _words(kind: Any) -> Iterator[str]:
    """The words that a type allows."""
    if typing.get_origin(kind) is typing.Literal:
        yield from (str(word) for word in typing.get_args(kind))
    else:
        for member in typing.get_args(kind):
            yield from _words(member)
