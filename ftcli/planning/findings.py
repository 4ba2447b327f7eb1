"""What a check has found: one line each, with a mark and a way out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ftcli.core.errors import UserError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, one word.
        text: what was found, in a sentence.
        fix: what to do about it.
    """

    name: str
    status: Status
    text: str
    fix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(name, "ok", text)


def warn(name: str, text: str, fix: str | None = None) -> Finding:
    """Training would start; the user should know."""
    return Finding(name, "warn", text, fix)


def failed(name: str, error: UserError) -> Finding:
    """Training would not start, or not do what is wanted."""
    return Finding(name, "fail", _said(error), error.fix)


def unknown(name: str, error: UserError) -> Finding:
    """It cannot be known here."""
    return Finding(name, "warn", _said(error), error.fix)


def _said(error: UserError) -> str:
    return f"{error.where}  {error.what}" if error.where else error.what
