"""Parse JSON without loss: input that Python's parser accepts but changes is refused.

Of a duplicate key the parser keeps only the last value. Half of a surrogate pair is not a character,
and no tokenizer accepts it. Very deep nesting can be parsed but not be written again.
"""

from __future__ import annotations

import json
import re
from typing import Any

NESTING = 100  # levels
LONGEST = 1 << 28  # bytes of one row
BLANK = re.compile(r"[ \t\n\r]*")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class UnparsableText(ValueError):
    """Error for text that the parser cannot parse for another reason than its grammar."""


class Decoder:
    """Decodes JSON values one after the other from a text."""

    def __init__(self) -> None:
        self._duplicate_key: str | None = None
        self._json = json.JSONDecoder(object_pairs_hook=self._build_object)

    def decode_at(self, text: str, start: int) -> tuple[Any, int, str | None]:
        """Return the value that begins at `start`, its end, and why it cannot be used (None: it can).

        Raises:
            json.JSONDecodeError: there is no value, or only the beginning of one.
            UnparsableText: the value is nested too deep for the parser, or a number too long for it.
        """
        self._duplicate_key = None
        try:
            value, end = self._json.raw_decode(text, start)
        except RecursionError as error:
            raise UnparsableText(f"is nested more than {NESTING} levels deep.") from error
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise UnparsableText("holds a number of thousands of digits.") from error
        return value, end, self._find_fault(value, text, start, end)

    def _build_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs) and self._duplicate_key is None:
            keys = [key for key, _ in pairs]
            self._duplicate_key = next(key for key in keys if keys.count(key) > 1)
        return mapping

    def _find_fault(self, value: Any, text: str, start: int, end: int) -> str | None:
        if self._duplicate_key is not None:
            return f"names {self._duplicate_key[:60]!r} more than once in one object."
        if text.count("[", start, end) + text.count("{", start, end) > NESTING and _is_deep(value):
            return f"is nested more than {NESTING} levels deep."
        if SURROGATE.search(text, start, end):
            return _find_half_character(value)
        return None


def load(text: str, decoder: Decoder | None = None) -> Any:
    """Return the single value of a text.

    Args:
        decoder: one to use again for many texts; making one takes as long as a short line.

    Raises:
        ValueError: the message is a predicate that follows the text's origin: "is not valid JSON: ...".
    """
    try:
        value, end, fault = (decoder or Decoder()).decode_at(text, BLANK.match(text).end())  # type: ignore[union-attr]
        if BLANK.match(text, end).end() < len(text):  # type: ignore[union-attr]
            raise json.JSONDecodeError("something follows the end", text, end)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error}.") from error
    if fault:
        raise ValueError(fault)
    return value


def is_value(text: str) -> bool:
    """Whether a text is one value by the grammar, even one that `load` refuses."""
    try:
        load(text)
    except ValueError as error:
        return not isinstance(error.__cause__, json.JSONDecodeError)
    return True


def _is_deep(value: Any) -> bool:
    """Whether containers are nested more than `NESTING` levels deep."""
    level = [value]
    for _ in range(NESTING):
        inside = [
            v
            for container in level
            for v in (container.values() if isinstance(container, dict) else container)
        ]
        level = [v for v in inside if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def _find_half_character(value: Any) -> str | None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        return f"holds half of a surrogate pair, {half!r}, which is no character."
    return None
