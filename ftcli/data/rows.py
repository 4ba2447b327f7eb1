"""Raw rows of data files, errors of single rows, and values in messages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from ftcli.core.errors import UserError

SKIP = "fix the row, or set data.on_error=skip to leave such rows out and count them"
COLUMNS = 20  # names of columns in a message
BRIEF = 60  # characters of a name or value in a message

#: Why a row is left out. broken: the file cannot be read there; unfit: a field is missing or of the wrong
#: kind; empty: a field has no content; not to learn: the data exclude it; too long: it is longer than
#: `data.max_length`; no labels: nothing in it is learned.
Reason = Literal["broken", "unfit", "empty", "not to learn", "too long", "no labels"]


class RawRow(NamedTuple):
    """The columns of one row as the file has them, and where the row stands."""

    values: dict[str, Any]
    origin: (
        str  # "file:line", or "file[row number]" where a file has no lines; no two rows share one
    )


class LocatedRowError(UserError):
    """Error of one row that cannot be used; it does not affect other rows."""

    def __init__(self, what: str, origin: str, reason: Reason) -> None:
        super().__init__(what, where=origin, fix=SKIP)
        self.origin, self.reason = origin, reason

    @property
    def intended(self) -> bool:
        """Whether the data themselves exclude the row; `data.on_error=stop` does not apply to it."""
        return self.reason == "not to learn"


#: What readers yield: a row, or the reason why this one row cannot be used.
RowOrError: TypeAlias = RawRow | LocatedRowError


class RowError(ValueError):
    """Error of a row that gives no example; the message is a predicate that follows the row's origin."""

    def __init__(self, what: str, reason: Reason = "unfit") -> None:
        super().__init__(what)
        self.reason = reason

    def locate(self, origin: str) -> LocatedRowError:
        """Return the error with the origin of its row."""
        return LocatedRowError(str(self), origin, self.reason)


def make_broken_row_error(what: str, origin: str) -> LocatedRowError:
    """Return the error of a row that cannot be read from its file."""
    return LocatedRowError(what, origin, "broken")


def shorten(value: Any) -> str:
    """Format a value of the data for a message: shortened, control characters escaped."""
    text = repr(value[: BRIEF + 1] if isinstance(value, str) else value)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}..."


def list_names(columns: Iterable[str]) -> str:
    """Format names of columns for a message: shortened, control characters escaped."""
    names = list(columns)
    known = [name if name.isprintable() and len(name) <= BRIEF else shorten(name) for name in names]
    more = f", ... ({len(names):,} in all)" if len(names) > COLUMNS else ""
    return ", ".join(known[:COLUMNS]) + more


def as_text(value: Any, field: str, empty: bool = False) -> str:
    """Convert a field's value to text; numbers and booleans are formatted.

    Raises:
        RowError: the value is of another kind, or empty though `empty` is false.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(f"'{field}' is {value}, expected text.")
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise RowError(f"'{field}' is {_kind(value)}, expected text.")
    if not empty and not value.strip():
        raise RowError(f"'{field}' is empty.", "empty")
    return value


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "a mapping", "list": "a list"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
