"""One raw row of a data file, and the place it came from."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from ftcli.errors import UserError

SKIP = "mend the row, or set data.on_error=skip to leave such rows out and count them"


class Row(NamedTuple):
    """The columns of one row as the file has them."""

    values: dict[str, Any]
    origin: str  # "file:line", or "file[row number]" where a file has no lines


#: What readers yield: a row, or the reason why this one row cannot be used.
Item: TypeAlias = Row | UserError


class Unusable(ValueError):
    """Why a row cannot be an example, in words that follow its place."""


def bad(what: str, origin: str) -> UserError:
    """The error of one row that cannot be used."""
    return UserError(what, where=origin, fix=SKIP)
