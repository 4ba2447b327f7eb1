"""One raw row of a data file, and the place it came from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from ftcli.core.errors import UserError

SKIP = "fix the row, or set data.on_error=skip to leave such rows out and count them"
COLUMNS = 20  # names of columns in a message
BRIEF = 60  # characters of a name or value in a message

#: Why a row is left out: the file cannot be read there; a field is missing or of the wrong kind; a
#: field has no content; the data say that it is not learned; it is longer than `data.max_length`;
#: nothing in it is learned.
Reason = Literal["broken", "unfit", "empty", "not to learn", "too long", "no labels"]


class Row(NamedTuple):
    """The columns of one row as the file has them."""

    values: dict[str, Any]
    origin: (
        str  # "file:line", or "file[row number]" where a file has no lines; no two rows share one
    )


class BadRow(UserError):
    """Why one row cannot be used; others can."""

    def __init__(self, what: str, origin: str, reason: Reason) -> None:
        super().__init__(what, where=origin, fix=SKIP)
        self.origin, self.reason = origin, reason

    @property
    def intended(self) -> bool:
        """Whether the data themselves leave the row out, so that `data.on_error=stop` has no say."""
        return self.reason == "not to learn"


#: What readers yield: a row, or the reason why this one row cannot be used.
Item: TypeAlias = Row | BadRow


class UnusableRow(ValueError):
    """Why a row cannot be an example, in words that follow its place."""

    def __init__(self, what: str, reason: Reason = "unfit") -> None:
        super().__init__(what)
        self.reason = reason

    def to_bad_row(self, origin: str) -> BadRow:
        """The error of the row that stands there."""
        return BadRow(str(self), origin, self.reason)


def broken_row(what: str, origin: str) -> BadRow:
    """The error of a row that the file itself breaks."""
    return BadRow(what, origin, "broken")


def shorten(value: Any) -> str:
    """A value of the data for a message: short, and without characters that a terminal obeys."""
    text = repr(value[: BRIEF + 1] if isinstance(value, str) else value)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}..."


def list_names(columns: Iterable[str]) -> str:
    """Names of columns for a message, in the same way."""
    names = list(columns)
    known = [name if name.isprintable() and len(name) <= BRIEF else shorten(name) for name in names]
    more = f", ... ({len(names):,} in all)" if len(names) > COLUMNS else ""
    return ", ".join(known[:COLUMNS]) + more


def as_text(value: Any, field: str, empty: bool = False) -> str:
    """A field's value as text; numbers and booleans are written out."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableRow(f"'{field}' is {value}, expected text.")
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise UnusableRow(f"'{field}' is {_kind(value)}, expected text.")
    if not empty and not value.strip():
        raise UnusableRow(f"'{field}' is empty.", "empty")
    return value


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "a mapping", "list": "a list"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
