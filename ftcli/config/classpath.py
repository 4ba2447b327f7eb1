"""Which classes a configuration may name, and how they are fetched: nothing else is ever imported.

A name counts by where the class is defined, not by how it is spelt: `ftcli.jobs.launch.subprocess.Popen`
passes through ftcli and stands in subprocess.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

from ftcli.config import source
from ftcli.core.errors import UserError

#: A dotted class name. A component with such a field and `**options` takes the options of that class.
ClassPath: TypeAlias = str
#: What a ClassPath may name.
LIBRARIES = ("peft", "torch.optim", "bitsandbytes.optim", "transformers", "schedulefree", "ftcli")
#: Rooms of ftcli whose classes may be components (`_target_`); the others hold its machinery.
COMPONENT_FOLDERS = (
    "data", "evaluation", "loggers", "methods", "models", "objectives", "optimizers", "papers", "penalties",
    "pipelines", "schedulers", "sweeps.launchers", "trainable", "trainer",
)  # fmt: skip
COMPONENTS = tuple(f"ftcli.{folder}" for folder in COMPONENT_FOLDERS)
TARGET_FORM = "a class is written as ftcli.folder.module.Class"
#: Environment variable with the packages the user trusts, by comma; ranks of a run inherit it.
TRUST = "FTCLI_TRUST"


class NotAllowed(LookupError):
    """A name that leads outside the packages it may stand in, or to something that is no class."""


def trust(packages: Iterable[str]) -> None:
    """Let classes of these packages be named too; modules of the working folder can be found then."""
    trusted = dict.fromkeys([*list_trusted_packages(), *packages])
    if trusted:
        os.environ[TRUST] = ",".join(trusted)
        _add_working_folder()


def list_trusted_packages() -> list[str]:
    """The packages that the user trusts in this process."""
    return [name for name in os.environ.get(TRUST, "").split(",") if name]


def is_allowed(path: str, packages: tuple[str, ...] | list[str]) -> bool:
    """Whether `path` stands inside one of `packages`, or of those the user trusts."""
    return _is_inside(path, (*packages, *list_trusted_packages()))


def fetch_class(path: str, packages: tuple[str, ...]) -> Any:
    """The class of a dotted name.

    Args:
        packages: where it must be defined, unless the user trusts another.

    Raises:
        NotAllowed: it is defined elsewhere or is no class; nothing outside has been imported.
        ModuleNotFoundError, AttributeError: there is no such class.
    """
    if not is_allowed(path, packages):
        raise NotAllowed(f"{path} is outside {format_packages(packages)}")
    module, _, name = path.rpartition(".")
    if _is_inside(path, list_trusted_packages()):  # the user has vouched for all of it
        _add_working_folder()
        return getattr(importlib.import_module(module), name)
    component = getattr(importlib.import_module(module), name)
    if not inspect.isclass(component):
        raise NotAllowed(f"{path} is not a class")
    if not _is_inside(f"{component.__module__}.{component.__qualname__}", packages):
        what = f"{path} is {component.__module__}.{component.__qualname__}"
        raise NotAllowed(f"{what}, outside {format_packages(packages)}")
    return component


def fetch_subclass(path: str, kind: type, where: str, kind_name: str) -> Any:
    """The same for a class of a library that is a `kind`, in messages a `said`.

    Raises:
        UserError: it is something else, or may not be named.
        ModuleNotFoundError: its package is missing.
    """
    fix = f"ftcli schema {where}"
    try:
        component = fetch_class(path, LIBRARIES)
    except NotAllowed as error:
        raise UserError(f"{error}.", where, suggest_access(path)) from error
    except (AttributeError, ValueError) as error:
        raise UserError(f"there is no {path}.", where, fix) from error
    if not (isinstance(component, type) and issubclass(component, kind)):
        raise UserError(f"{path} is not a {kind_name}.", where, fix)
    return component


def describe_definition(path: str, packages: tuple[str, ...]) -> str | None:
    """None where the source says that `path` is a class of `packages`, else what it is instead."""
    if _is_inside(path, list_trusted_packages()):
        return None
    definition = source.locate(path)
    if definition is None or not isinstance(definition.node, ast.ClassDef):
        return "not a class"
    return None if _is_inside(definition.dotted, packages) else definition.dotted


def format_packages(packages: tuple[str, ...]) -> str:
    """The packages in a message; the rooms of components are simply ftcli."""
    return "ftcli" if packages == COMPONENTS else ", ".join(packages)


def suggest_access(target: Any) -> str:
    """What to do about a name that is not allowed."""
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
