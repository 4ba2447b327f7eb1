"""What is said of a name that nothing knows: the nearest that is known, or where it belongs."""

from __future__ import annotations

from collections.abc import Iterable

from ftcli.config import job
from ftcli.config.composed import Composed
from ftcli.config.keys import TARGET, keys_of
from ftcli.config.nearest import OTHER_NAMES, nearest, nearest_key
from ftcli.config.packages import missing
from ftcli.config.signature import NoSuchClass
from ftcli.errors import UserError


def of_node(composed: Composed, key: str, owner: str, known: Iterable[str]) -> UserError:
    """A key that its node does not take; `owner` is what the node is called."""
    prefix, _, name = key.rpartition(".")
    meant = nearest_key(name, known)
    hint = f"{prefix}.{meant}" if meant else _elsewhere(composed, name)
    what = f"{key} is not a key of {owner}.{_did_you_mean(hint)}"
    return UserError(what, composed.where(key), f"see: ftcli schema {key.split('.')[0]}")


def of_job(composed: Composed, key: str, known: Iterable[str]) -> UserError:
    """A key at the top of a job that is neither a group nor a setting."""
    hint = _elsewhere(composed, key) or next(iter(nearest(key, known, 1)), None)
    what = f"{key} is not a key of a job.{_did_you_mean(hint)}"
    return UserError(what, composed.where(key), "see: ftcli schema")


def of_class(composed: Composed, error: NoSuchClass, key: str) -> UserError:
    """A class that is not there, or whose package is not installed."""
    if error.missing:
        return missing(error.missing, f"{key}={error.target}", composed.where(key))
    hint = _did_you_mean(error.nearest[0] if error.nearest else None)
    what = f"{key}={error.target}: there is no such class.{hint}"
    return UserError(what, composed.where(key), f"ftcli schema {key.split('.')[0]}")


def _did_you_mean(name: str | None) -> str:
    return f" Did you mean {name}?" if name else ""


def _elsewhere(composed: Composed, name: str) -> str | None:
    """The key of another group that is called so, here or elsewhere (`lr` -> `optimizer.lr`)."""
    for group in job.OBJECTS:
        node = composed.config.get(group)
        try:
            keys = keys_of(node) if isinstance(node, dict) and TARGET in node else None
        except NoSuchClass:
            continue
        for known in (name, OTHER_NAMES.get(name, name)):
            if keys and known in keys.parameters:
                return f"{group}.{known}"
    return None
