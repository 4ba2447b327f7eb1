"""The shapes a row can have: one module a format, found by name.

A format module has

    FIELDS      field -> whether a row must have it
    SYNONYMS    field -> column names that often hold it, for suggestions
    example(fields) -> the canonical example, or `Unusable` when the row makes no sense
    prompt_of(example) -> what is asked, as text; rows that ask the same stay in one split
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any

from ftcli.data.rows import Unusable
from ftcli.errors import UserError

#: Any format may have it: answers to compare with.
REFERENCES = "references"


@cache
def names() -> list[str]:
    """Every format."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


@cache
def find(name: str) -> ModuleType:
    """The module of a format."""
    if name not in names():
        near = get_close_matches(name, names(), 1)
        raise UserError(
            f"no such format '{name}'." + (f" Did you mean {near[0]}?" if near else ""),
            where="data.format",
            fix=f"one of {', '.join(names())}, auto",
        )
    return importlib.import_module(f"{__name__}.{name}")


def required(module: ModuleType) -> list[str]:
    """Fields a row of the format must have."""
    return [field for field, needed in module.FIELDS.items() if needed]


def as_text(value: Any, field: str, empty: bool = False) -> str:
    """A field's value as text; numbers and booleans are written out."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Unusable(f"'{field}' is {value}, expected text.")
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise Unusable(f"'{field}' is {_kind(value)}, expected text.")
    if not empty and not value.strip():
        raise Unusable(f"'{field}' is empty.", "empty")
    return value


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "a mapping", "list": "a list"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
