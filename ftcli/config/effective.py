"""The value a key has in a run: what the job says, or the default of the class that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.config.composed import Composed
from ftcli.config.job import PROMISES
from ftcli.config.keys import TARGET, keys_of
from ftcli.config.signature import NoSuchClass


def value(composed: Composed, key: str) -> Any:
    """The value of a dotted key; None where nothing reads such a key."""
    absent = object()
    found = composed.get(key, absent)
    if found is not absent:
        return found
    group, _, name = key.partition(".")
    node = composed.config.get(group)
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        return None
    try:
        parameter = keys_of(node).parameters.get(name)
    except NoSuchClass:
        return None
    return parameter.default if parameter is not None and parameter.has_value else None


def promise(composed: Composed, group: str, name: str) -> Any:
    """A constant that the option of a group or its class declares (`quantisable`); else None."""
    node = composed.config.get(group)
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        return None
    own = node.get(PROMISES) or {}
    if name in own:
        return own[name]
    try:
        return keys_of(node).owner.attributes.get(name)
    except NoSuchClass:
        return None
