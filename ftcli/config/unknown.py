"""What is said of a name that nothing knows: the nearest that is known, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftcli.config import meant, overrides
from ftcli.config.composed import COMMAND_LINE, Composed, leaves
from ftcli.config.meant import Setting
from ftcli.config.nearest import nearest, nearest_key
from ftcli.config.packages import missing
from ftcli.config.signature import NoSuchClass, Parameter
from ftcli.core.errors import UserError


def of_node(composed: Composed, key: str, owner: str, known: Mapping[str, Parameter]) -> UserError:
    """A key that its node does not take; `owner` is what the node is called."""
    prefix, _, name = key.rpartition(".")
    own = nearest_key(name, known)
    found = Setting(f"{prefix}.{own}", known[own]) if own else meant.setting(name, composed.config)
    what = f"{key} is not a key of {owner}.{_did_you_mean(found)}"
    return UserError(what, composed.where(key), _way(composed, key, found))


def of_job(composed: Composed, key: str, known: Iterable[str]) -> UserError:
    """A key at the top of a job that is neither a group nor a setting."""
    found = meant.setting(key, composed.config)
    if found is None and (near := nearest(key, known, 1)):
        found = Setting(near[0])
    what = f"{key} is not a key of a job.{_did_you_mean(found)}"
    return UserError(what, composed.where(key), _way(composed, key, found))


def of_class(composed: Composed, error: NoSuchClass, key: str) -> UserError:
    """A class that is not there, or whose package is not installed."""
    if error.missing:
        return missing(error.missing, f"{key}={error.target}", composed.where(key))
    near = error.nearest[0] if error.nearest else None
    what = f"{key}={error.target}: there is no such class."
    fix = overrides.written(key, near) if near else f"ftcli schema {key.split('.')[0]}"
    return UserError(what + (f" Did you mean {near}?" if near else ""), composed.where(key), fix)


def _did_you_mean(found: Setting | None) -> str:
    return f" Did you mean {found.key}?" if found else ""


def _way(composed: Composed, key: str, found: Setting | None) -> str:
    """How the key that was meant is written in the place of the one that stands there."""
    if found is None:
        return f"see: ftcli schema {key.split('.')[0] if '.' in key else ''}".rstrip()
    given = composed.get(key)
    if isinstance(given, Mapping) and found.parameter is None:  # a group: `optim: {lr: 1e-4}`
        words, line, others = _inner(found.key, given), f"{found.key}:", list[str]()
    else:
        value, others = found.value(key.rpartition(".")[2], given)
        words = overrides.written(found.key, value)
        line = f"{found.key.rpartition('.')[2]}: {overrides.text_of(value)}"
    more = f", or one of {', '.join(others)}" if others else ""
    if composed.origin(key) == COMMAND_LINE:
        return words + more
    group = found.key.rpartition(".")[0]
    same = group == key.rpartition(".")[0]
    return f"write `{line}` {'there' if same or not group else f'under `{group}:`'}{more}"


def _inner(group: str, values: Mapping[str, Any]) -> str:
    return " ".join(overrides.written(f"{group}.{key}", value) for key, value in leaves(values))
