"""Import the classes that a configuration may name, and nothing else.

What counts is the module that defines a class, not the dotted name: `ftcli.jobs.launch.subprocess.Popen`
begins with ftcli and is defined in subprocess.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

from ftcli.config import class_lookup
from ftcli.core.errors import UserError

#: A dotted class name. A component with such a field and `**options` accepts the options of that class.
ClassPath: TypeAlias = str
#: Packages whose classes a ClassPath may name.
LIBRARIES = ("peft", "torch.optim", "bitsandbytes.optim", "transformers", "schedulefree", "ftcli")
#: Folders of ftcli whose classes may be components (`_target_`); the others are internal.
COMPONENT_FOLDERS = (
    "callbacks", "data", "evaluation", "loggers", "methods", "models", "objectives", "optimizers", "papers",
    "penalties", "pipelines", "schedulers", "sweeps.launchers", "trainable", "trainer",
)  # fmt: skip
COMPONENTS = tuple(f"ftcli.{folder}" for folder in COMPONENT_FOLDERS)
TARGET_FORM = "a class is written as ftcli.folder.module.Class"
#: Environment variable: comma-separated packages that the user trusts; ranks of a run inherit it.
TRUST = "FTCLI_TRUST"


class ClassNotAllowed(LookupError):
    """A name refers to something outside the allowed packages, or to no class."""


def trust_packages(packages: Iterable[str]) -> None:
    """Allow classes of further packages, and modules of the working folder to be imported."""
    trusted = dict.fromkeys([*list_trusted_packages(), *packages])
    if trusted:
        os.environ[TRUST] = ",".join(trusted)
        _add_working_folder()


def list_trusted_packages() -> list[str]:
    """Return the packages that the user trusts in this process."""
    return [name for name in os.environ.get(TRUST, "").split(",") if name]


def is_allowed(path: str, packages: tuple[str, ...] | list[str]) -> bool:
    """Whether the dotted name `path` lies in one of `packages` or in a trusted package."""
    return _is_inside(path, (*packages, *list_trusted_packages()))


def fetch_class(path: str, packages: tuple[str, ...]) -> Any:
    """Import and return the class of a dotted name.

    Args:
        packages: packages that must define it, besides those that the user trusts.

    Raises:
        ClassNotAllowed: it is defined elsewhere or is not a class; nothing outside has been imported.
        ModuleNotFoundError, AttributeError: there is no such class.
    """
    if not is_allowed(path, packages):
        raise ClassNotAllowed(f"{path} is outside {format_packages(packages)}")
    module, _, name = path.rpartition(".")
    if _is_inside(path, list_trusted_packages()):  # trusted as a whole, whatever it imports
        _add_working_folder()
        return getattr(importlib.import_module(module), name)
    component = getattr(importlib.import_module(module), name)
    if not inspect.isclass(component):
        raise ClassNotAllowed(f"{path} is not a class")
    if not _is_inside(f"{component.__module__}.{component.__qualname__}", packages):
        what = f"{path} is {component.__module__}.{component.__qualname__}"
        raise ClassNotAllowed(f"{what}, outside {format_packages(packages)}")
    return component


def fetch_subclass(path: str, kind: type, where: str, kind_name: str) -> Any:
    """Import and return a library's class that must be a subclass of `kind`.

    Args:
        where: dotted key of the job that names the class, for messages.
        kind_name: name of `kind` in messages.

    Raises:
        UserError: it is not a subclass of `kind`, or is not allowed.
        ModuleNotFoundError: its package is missing.
    """
    fix = f"ftcli schema {where}"
    try:
        component = fetch_class(path, LIBRARIES)
    except ClassNotAllowed as error:
        raise UserError(f"{error}.", where, suggest_access(path)) from error
    except (AttributeError, ValueError) as error:
        raise UserError(f"there is no {path}.", where, fix) from error
    if not (isinstance(component, type) and issubclass(component, kind)):
        raise UserError(f"{path} is not a {kind_name}.", where, fix)
    return component


def explain_disallowed_class(path: str, packages: tuple[str, ...]) -> str | None:
    """Return None if `path` is a class defined in `packages`, else what it is; read from source."""
    if _is_inside(path, list_trusted_packages()):
        return None
    definition = class_lookup.find_definition(path)
    if definition is None or not isinstance(definition.node, ast.ClassDef):
        return "not a class"
    return None if _is_inside(definition.dotted_name, packages) else definition.dotted_name


def format_packages(packages: tuple[str, ...]) -> str:
    """Format packages for a message; the folders of components are written as ftcli."""
    return "ftcli" if packages == COMPONENTS else ", ".join(packages)


def suggest_access(target: Any) -> str:
    """Return the fix for a name that is not allowed."""
    if not isinstance(target, str) or not target:
        return f"{TARGET_FORM}; see the options: ftcli ls"
    top = target.split(".")[0]
    if top == "ftcli":
        return "components are defined in the folders " + ", ".join(COMPONENT_FOLDERS)
    return f"--trust {top} (or {TRUST}={top}), if you trust that package with your machine"


def _is_inside(path: str, packages: Iterable[str]) -> bool:
    return any(path == p or path.startswith(f"{p}.") for p in packages)


def _add_working_folder() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
