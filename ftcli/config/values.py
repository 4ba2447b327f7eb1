"""Check one value against the type of its key, and give it back as that type."""

from __future__ import annotations

import typing
from functools import cache
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ftcli.config.hints import describe


class WrongType(ValueError):
    """A value of another type than its key wants; the text says what is wanted."""


def normalised(value: Any, kind: Any) -> Any:
    """`value` as `kind`: numbers written as text or as integers become the number that is wanted.

    Raises:
        WrongType: it cannot be understood as that type.
    """
    if kind is Any:
        return value
    members = _members(kind)
    words = [word for member in members for word in _choices(member)]
    if value is None and type(None) not in members and "none" in words:
        return "none"  # `model.quantization=null`
    if isinstance(value, bool) and not _takes_bool(members):
        raise WrongType(_expected(kind, value))
    if isinstance(value, str) and float in members and value not in words:
        try:  # in `float | str` pydantic would leave a number written as text as text
            return float(value)
        except ValueError:
            pass
    try:
        return _plain(_adapter(_Hashed(kind)).validate_python(value))
    except ValidationError:
        raise WrongType(_expected(kind, value)) from None


def _expected(kind: Any, value: Any) -> str:
    hint = ""
    lists = [m for m in _members(kind) if m is list or typing.get_origin(m) in (list, tuple)]
    if lists and isinstance(value, str):
        hint = f" (write [{value}])"
    return f"expected {describe(kind)}{hint}."


def _members(kind: Any) -> tuple[Any, ...]:
    """Members of a union; of anything else, itself."""
    union = typing.get_origin(kind) is typing.Union or type(kind).__name__ == "UnionType"
    return typing.get_args(kind) if union else (kind,)


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _takes_bool(members: tuple[Any, ...]) -> bool:
    return any(m in (bool, Any) or any(isinstance(c, bool) for c in _choices(m)) for m in members)


class _Hashed:
    """A type as a cache key: unions of unhashable pieces hash by their text."""

    def __init__(self, kind: Any) -> None:
        self.kind, self.text = kind, repr(kind)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.text == other.text


@cache
def _adapter(hashed: _Hashed) -> TypeAdapter[Any]:
    # numbers may stand for text: a run named 7, a revision that is all digits
    return TypeAdapter(hashed.kind, config=ConfigDict(coerce_numbers_to_str=True))


def _plain(value: Any) -> Any:
    """Tuples as the lists that YAML knows."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
