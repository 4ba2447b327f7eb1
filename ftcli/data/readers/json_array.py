"""Decode the values of a top-level JSON array from a sliding buffer, in constant memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ftcli.core.errors import UserError
from ftcli.data.readers.lines import open_text
from ftcli.data.strict_json import BLANK, LONGEST, Decoder, UnparsableText

CHUNK = 1 << 18
TOKEN_LENGTH = (
    16  # characters: a literal, number or escape at the end of the buffer may only be its beginning
)


class Element(NamedTuple):
    """A value of the array, the reason why it cannot be used (or None), and its origin.

    The origin is the line where the value begins; where several begin on one line, also its number.
    """

    value: Any
    fault: str | None
    origin: str


class ArrayReader:
    """Iterates once over the array; text behind its end is an error."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 1
        self.buffer, self.at = "", 0
        self.decoder = Decoder()
        self.unicode = codecs.getincrementaldecoder("utf-8-sig")()

    def __iter__(self) -> Iterator[Element]:
        with open_text(self.path) as (self.stream, _):
            self._skip("[")
            number, before = 0, 0
            while self._peek() != "]":
                place = f"{self.path}:{self.line}"
                origin = f"{place}[{number}]" if self.line == before else place
                number, before = number + 1, self.line
                yield Element(*self._read_value(), origin)
                if self._peek() == ",":
                    self._skip(",")
                elif self._peek() != "]":
                    raise self._make_broken_error("expected ',' or ']' after an object")
            self._skip("]")
            if self._find_next():
                raise self._make_broken_error("something follows the end of the array")

    def _read_more(self) -> bool:
        """Read more of the file into the buffer; False at the end of the file."""
        raw = self.stream.read(max(CHUNK, len(self.buffer) - self.at))
        try:
            text = self.unicode.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            self._forward(len(self.buffer))
            self.line += error.object.count(b"\n", 0, error.start)
            raise self._make_broken_error(
                f"is not UTF-8 text: byte 0x{error.object[error.start]:02x}"
            ) from error
        self.buffer, self.at = self.buffer[self.at :] + text, 0
        return bool(raw)

    def _forward(self, to: int) -> None:
        self.line += self.buffer.count("\n", self.at, to)
        self.at = to

    def _find_next(self) -> str:
        """Return the next character that is not white space; "" at the end of the file."""
        while True:
            self._forward(BLANK.match(self.buffer, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._read_more():
                return ""

    def _peek(self) -> str:
        character = self._find_next()
        if not character:
            raise self._make_broken_error("the array is not closed")
        return character

    def _skip(self, character: str) -> None:
        if self._peek() != character:
            raise self._make_broken_error(f"expected '{character}'")
        self._forward(self.at + 1)

    def _read_value(self) -> tuple[Any, str | None]:
        while True:
            try:
                value, end, fault = self.decoder.decode_at(self.buffer, self.at)
            except json.JSONDecodeError as error:
                self._read_rest(error)
                continue
            except UnparsableText as error:
                raise self._make_broken_error(str(error).rstrip(".")) from error
            # A number at the end of the buffer may continue in the next chunk.
            if end < len(self.buffer) or not self._read_more():
                self._forward(end)
                return value, fault

    def _read_rest(self, error: json.JSONDecodeError) -> None:
        """Read more where the buffer may end inside a value; otherwise raise the error."""
        begun = error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - TOKEN_LENGTH
        if len(self.buffer) - self.at > LONGEST:
            raise self._make_broken_error(f"an object is longer than {LONGEST >> 20} MB")
        ahead = error.pos - self.at  # reading on moves the buffer
        if not begun or not self._read_more():
            self._forward(min(self.at + ahead, len(self.buffer)))
            raise self._make_broken_error(f"is not valid JSON: {error.msg}") from error

    def _make_broken_error(self, why: str) -> UserError:
        """Error for an invalid array; it is never skipped, since the bounds of later objects are unknown."""
        return UserError(
            f"{why}.",
            where=f"{self.path}:{self.line}",
            fix="fix the file, or write it as JSON lines, where single rows can be skipped",
        )
