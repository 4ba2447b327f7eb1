"""Findings of a check: one line each, with a status and a fix."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ftcli.core.errors import UserError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        name: what was checked, one word.
        text: the result, in a sentence.
        fix: what to do about it.
    """

    name: str
    status: Status
    text: str
    fix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data, without keys that have no value."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def ok(name: str, text: str) -> Finding:
    """Return a finding on which nothing has to be done."""
    return Finding(name, "ok", text)


def warn(name: str, text: str, fix: str | None = None) -> Finding:
    """Return a finding with which training starts, but that the user should know."""
    return Finding(name, "warn", text, fix)


def fail(name: str, error: UserError) -> Finding:
    """Return a finding with which training does not start, or does something else."""
    return Finding(name, "fail", _text(error), error.fix)


def unknown(name: str, error: UserError) -> Finding:
    """Return a warning that a check is not possible on this machine."""
    return Finding(name, "warn", _text(error), error.fix)


def _text(error: UserError) -> str:
    return f"{error.where}  {error.what}" if error.where else error.what
