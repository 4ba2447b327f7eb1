"""Build the objects that a configuration names."""

from __future__ import annotations

import inspect
import re
from importlib import metadata
from typing import Any

from ftcli.config import classpath
from ftcli.config.job import KEYS_NOT_PASSED, TARGET, ComposedJob
from ftcli.core.errors import UserError, missing_package


def build(node: dict[str, Any], key: str = "", composed: ComposedJob | None = None) -> Any:
    """Build the object of a node: import its `_target_` and call it with the other keys.

    Nodes inside the node are built first.

    Args:
        node: a mapping with `_target_`.
        key: dotted key of the node in the job (`method`), for messages.
        composed: the job, for the file and line in messages.

    Raises:
        UserError: the class rejects its settings, is not allowed, or its package is missing.
    """
    target = node[TARGET]
    where = composed.where(key) if composed else None
    options = {
        name: _build_inner(value, f"{key}.{name}".lstrip("."), composed)
        for name, value in node.items()
        if name not in (TARGET, *KEYS_NOT_PASSED)
    }
    component = _import_class(target, key, where)
    _check_options(component, options, key or target, where)
    try:
        return component(**options)
    except UserError as error:
        raise locate_error(error, composed, key) from error
    except ModuleNotFoundError as error:
        raise _make_missing_error(error, target, key, where) from error
    except ValueError as error:
        raise UserError(f"{key or target}: {error}", where, f"see: ftcli schema {key}") from error


def locate_error(error: UserError, composed: ComposedJob | None, key: str = "") -> UserError:
    """Return the error with `where` as file:line, if `where` was a key of the job or empty.

    A component knows only the name of its key (`data.path`); the job knows the line that sets it.
    """
    if composed is None:
        return error
    place = error.where or key
    is_key = place in composed.origins or place in composed.mapping_origins
    if is_key and place:
        error.where = composed.where(place)
        if place not in error.what and place != key:
            error.what = f"{place}: {error.what}"
    return error


def _build_inner(value: Any, key: str, composed: ComposedJob | None) -> Any:
    if isinstance(value, dict):
        if TARGET in value:
            return build(value, key, composed)
        return {name: _build_inner(v, f"{key}.{name}", composed) for name, v in value.items()}
    if isinstance(value, list):
        return [_build_inner(v, f"{key}.{index}", composed) for index, v in enumerate(value)]
    return value


def _import_class(target: Any, key: str, where: str | None) -> Any:
    try:
        return classpath.fetch_class(str(target), classpath.COMPONENTS)
    except classpath.ClassNotAllowed as error:
        raise UserError(
            f"{key}.{TARGET}: {error}.", where, classpath.suggest_access(str(target))
        ) from error
    except ModuleNotFoundError as error:
        raise _make_missing_error(error, str(target), key, where) from error
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"{key}.{TARGET}={target}: there is no such class.", where, f"ftcli schema {key}"
        ) from error


def _check_options(component: Any, options: dict[str, Any], key: str, where: str | None) -> None:
    """Refuse options that the class does not accept; a resolved file may never have been validated.

    Raises:
        UserError: an option is unknown, or a required one is missing.
    """
    try:
        signature = inspect.signature(component)
    except ValueError:  # a class written in C may have no signature
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        raise UserError(f"{key}: {error}.", where, f"see: ftcli schema {key}") from error


def _make_missing_error(
    error: ModuleNotFoundError, target: str, key: str, where: str | None
) -> UserError:
    package = (error.name or "").split(".")[0]
    if package == target.split(".")[0]:
        what = f"{key}.{TARGET}={target}: there is no such class."
        return UserError(what, where, f"ftcli schema {key}")
    return make_package_error(package, f"{key or 'config'}={target}", where)


def make_package_error(package: str, needed_by: str, where: str | None = None) -> UserError:
    """Return the error for a package that is not installed, with the command that installs it."""
    extra = _find_extra(package)
    if extra:
        error = missing_package(package, extra, needed_by)
    else:
        what = f"{needed_by} needs the package '{package}', which is not installed."
        error = UserError(what, fix=f"pip install {package.replace('_', '-')}")
    error.where = where
    return error


def _find_extra(package: str) -> str | None:
    """Return the extra of ftcli that requires a package or a distribution of it (`mlflow-skinny`)."""
    try:
        requirements = metadata.requires("ftcli") or []
    except metadata.PackageNotFoundError:
        return None
    wanted = package.replace("_", "-").lower()
    for requirement in requirements:
        name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if extra and extra[1] != "dev" and (name == wanted or name.startswith(f"{wanted}-")):
            return extra[1]
    return None
