"""Which extra of ftcli brings a package that is not installed."""

from __future__ import annotations

import re
from importlib import metadata

from ftcli.core.errors import UserError, missing_package


def missing(package: str, needed_by: str, where: str | None = None) -> UserError:
    """The error for an import name that cannot be found, with the command that installs it."""
    extra = _extra(package)
    if extra:
        error = missing_package(package, extra, needed_by)
    else:
        what = f"{needed_by} needs the package '{package}', which is not installed."
        error = UserError(what, fix=f"pip install {package.replace('_', '-')}")
    error.where = where
    return error


def _extra(package: str) -> str | None:
    """The extra whose requirement is that package or one of its distributions (`mlflow-skinny`)."""
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
