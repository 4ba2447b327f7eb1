"""Make the objects that a configuration names."""

from __future__ import annotations

import inspect
from typing import Any

from ftcli.config import classpath
from ftcli.config.composed import Composed
from ftcli.config.job import UNREAD
from ftcli.config.keys import TARGET
from ftcli.config.packages import missing
from ftcli.core.errors import UserError


def build(node: dict[str, Any], key: str = "", composed: Composed | None = None) -> Any:
    """Import what `_target_` names and call it with the other keys; inner nodes are built first.

    Args:
        node: a mapping with `_target_`.
        key: where it stands in the job (`method`), for messages.
        composed: the job, so that a message can name file and line.

    Raises:
        UserError: the class refuses its settings, is not allowed, or its package is missing.
    """
    target = node[TARGET]
    where = composed.where(key) if composed else None
    options = {
        name: _inner(value, f"{key}.{name}".lstrip("."), composed)
        for name, value in node.items()
        if name not in (TARGET, *UNREAD)
    }
    made = _import(target, key, where)
    _fits(made, options, key or target, where)
    try:
        return made(**options)
    except UserError as error:
        raise located(error, composed, key) from error
    except ModuleNotFoundError as error:
        raise _absent(error, target, key, where) from error
    except ValueError as error:
        raise UserError(f"{key or target}: {error}", where, f"see: ftcli schema {key}") from error


def located(error: UserError, composed: Composed | None, key: str = "") -> UserError:
    """The same error, its `where` a file:line where it was a key of the job or nothing.

    A component knows only the name of its key (`data.path`); the job knows who set it.
    """
    if composed is None:
        return error
    named = error.where or key
    known = named in composed.origins or named in composed.sections
    if known and named:
        error.where = composed.where(named)
        if named not in error.what and named != key:
            error.what = f"{named}: {error.what}"
    return error


def _inner(value: Any, key: str, composed: Composed | None) -> Any:
    if isinstance(value, dict):
        if TARGET in value:
            return build(value, key, composed)
        return {name: _inner(v, f"{key}.{name}", composed) for name, v in value.items()}
    if isinstance(value, list):
        return [_inner(v, f"{key}.{index}", composed) for index, v in enumerate(value)]
    return value


def _import(target: Any, key: str, where: str | None) -> Any:
    try:
        return classpath.fetch(str(target), classpath.COMPONENTS)
    except classpath.NotAllowed as error:
        raise UserError(
            f"{key}.{TARGET}: {error}.", where, classpath.way_in(str(target))
        ) from error
    except ModuleNotFoundError as error:
        raise _absent(error, str(target), key, where) from error
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"{key}.{TARGET}={target}: there is no such class.", where, f"ftcli schema {key}"
        ) from error


def _fits(made: Any, options: dict[str, Any], key: str, where: str | None) -> None:
    """Refuse options that the class does not take, as of a file that was never validated.

    Raises:
        UserError: there are such, or one that it wants is not there.
    """
    try:
        signature = inspect.signature(made)
    except ValueError:  # a class of C says nothing of its arguments
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise UserError(f"{key}: {error}.", where, f"see: ftcli schema {key}") from error


def _absent(error: ModuleNotFoundError, target: str, key: str, where: str | None) -> UserError:
    package = (error.name or "").split(".")[0]
    if package == target.split(".")[0]:
        what = f"{key}.{TARGET}={target}: there is no such class."
        return UserError(what, where, f"ftcli schema {key}")
    return missing(package, f"{key or 'config'}={target}", where)
