"""Numbered, decoded lines of a plain or gzipped file; what every line-based reader stands on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from ftcli.errors import UserError

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


class Line(NamedTuple):
    """One line; `text` has replacement characters where `error` says it is not UTF-8."""

    number: int
    text: str
    error: str | None


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked when its name ends in .gz.

    Raises:
        UserError: reading inside the block met damage.
    """
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
        try:
            yield cast(IO[bytes], stream)
        except DAMAGE as error:
            raise _damaged(str(path), error) from error


def lines(path: Path) -> Iterator[Line]:
    """Every line of a UTF-8 file; a byte order mark at its start is dropped.

    Raises:
        UserError: the packed file is damaged; names the line where reading stopped.
    """
    number = 0
    with open_bytes(path) as stream:
        try:
            for raw in stream:
                number += 1
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                yield _decode(number, raw)
        except DAMAGE as error:
            raise _damaged(f"{path}:{number + 1}", error) from error


def _damaged(where: str, error: Exception) -> UserError:
    return UserError(
        f"the file is damaged or cut off: {error}.", where=where, fix="fetch or pack the file again"
    )


def _decode(number: int, raw: bytes) -> Line:
    try:
        return Line(number, raw.decode("utf-8"), None)
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text: byte 0x{raw[error.start]:02x} at position {error.start}."
        return Line(number, raw.decode("utf-8", errors="replace"), why)
