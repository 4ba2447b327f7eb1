"""A JSON file: an array of objects, an object that holds one, or in truth JSON lines."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.data.readers import jsonl
from ftcli.data.readers.lines import open_bytes
from ftcli.data.rows import Item, Row, bad
from ftcli.errors import UserError

SUFFIXES = (".json",)
CHUNK = 1 << 18
HOLDERS = ("data", "rows", "examples", "train")


def read(path: Path, unit: str = "file") -> Iterator[Item]:
    """The objects of the file; a top-level array is read piece by piece, never as a whole."""
    first = _first_character(path)
    if first == "[":
        yield from _Array(path)
    elif first == "{" and not _is_one_object(path):
        yield from jsonl.read(path, unit)
    else:
        yield from _held(path)


def _first_character(path: Path) -> str:
    with open_bytes(path) as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return chr(head[0]) if head else ""


def _is_one_object(path: Path) -> bool:
    """Whether the first line is not an object in itself, so that the file must be one object."""
    with open_bytes(path) as stream:
        line = next((raw for raw in stream if raw.strip()), b"")
        more = next((raw for raw in stream if raw.strip()), None)
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return more is None or not more.lstrip().startswith(b"{")
    return more is None and any(isinstance(value.get(key), list) for key in HOLDERS)


def _held(path: Path) -> Iterator[Item]:
    """The array inside a single object such as {"data": [...]}."""
    try:
        with open_bytes(path) as stream:
            whole = json.loads(stream.read().decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"is not valid JSON: {error}.", where=str(path)) from error
    key = next(
        (k for k in HOLDERS if isinstance(whole, dict) and isinstance(whole.get(k), list)), None
    )
    if key is None:
        raise UserError(
            "holds no rows.",
            where=str(path),
            fix="write an array of objects, JSON lines, or an object with a list under 'data'",
        )
    for number, value in enumerate(whole[key]):
        yield _row(value, f"{path}[{number}]")


def _row(value: Any, origin: str) -> Item:
    if isinstance(value, dict):
        return Row(value, origin)
    return bad(f"holds a {type(value).__name__}, expected an object with columns.", origin)


class _Array:
    """Objects of a top-level array, decoded from a sliding buffer, each with its first line."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 1
        self.buffer, self.ended = "", False
        self.decoder = json.JSONDecoder()
        self.unicode = codecs.getincrementaldecoder("utf-8-sig")()

    def __iter__(self) -> Iterator[Item]:
        with open_bytes(self.path) as self.stream:
            self._skip("[")
            while self._peek() != "]":
                origin = f"{self.path}:{self.line}"
                yield _row(self._value(origin), origin)
                if self._peek() == ",":
                    self._skip(",")
                elif self._peek() != "]":
                    raise self._broken("expected ',' or ']' after an object")

    def _fill(self) -> bool:
        """Read on; false at the end of the file."""
        raw = self.stream.read(max(CHUNK, len(self.buffer)))
        try:
            self.buffer += self.unicode.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise self._broken(f"is not UTF-8 text: {error.reason}") from error
        self.ended = not raw
        return bool(raw)

    def _take(self, count: int) -> None:
        self.line += self.buffer.count("\n", 0, count)
        self.buffer = self.buffer[count:]

    def _peek(self) -> str:
        while True:
            rest = self.buffer.lstrip()
            self._take(len(self.buffer) - len(rest))
            if self.buffer:
                return self.buffer[0]
            if not self._fill():
                raise self._broken("the array is not closed")

    def _skip(self, character: str) -> None:
        if self._peek() != character:
            raise self._broken(f"expected '{character}'")
        self._take(1)

    def _value(self, origin: str) -> Any:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer)
            except json.JSONDecodeError as error:
                if not self._fill():
                    raise self._broken(f"is not valid JSON: {error.msg}") from error
                continue
            # A number at the end of the buffer may go on in the next piece.
            if end < len(self.buffer) or self.ended or not self._fill():
                self._take(end)
                return value

    def _broken(self, why: str) -> UserError:
        """Where an array breaks no later object can be trusted, so it is never skipped."""
        return UserError(
            f"{why}.",
            where=f"{self.path}:{self.line}",
            fix="mend the file, or write it as JSON lines, where single rows can be skipped",
        )
