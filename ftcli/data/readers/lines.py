"""Read numbered, decoded lines of a plain or gzipped file; the base of all text readers."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from ftcli.core.errors import UserError
from ftcli.data.readers.encoding import BOM, refuse_other_encodings
from ftcli.data.strict_json import LONGEST

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
BLOCK = 1 << 20
HEAD = 1 << 16  # bytes by which encoding and line ends are detected


class Line(NamedTuple):
    """One line; where `error` says that it is not UTF-8, `text` has replacement characters."""

    number: int
    text: str
    error: str | None


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unpacked where its name ends in .gz.

    Raises:
        UserError: the packed file turns out to be damaged while it is read inside the block.
    """
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
        try:
            yield cast(IO[bytes], stream)
        except DAMAGE as error:
            raise _make_damage_error(str(path), error) from error


@contextmanager
def open_text(path: Path) -> Iterator[tuple[IO[bytes], bytes]]:
    """Open a file of UTF-8 text as `open_bytes` does; also return its first `HEAD` bytes.

    Raises:
        UserError: the file has another encoding, or is not text.
    """
    with open_bytes(path) as stream:
        head = stream.read(HEAD)
        refuse_other_encodings(head, path)
        stream.seek(0)
        yield stream, head


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a UTF-8 file; a byte order mark at its start is dropped.

    Lines end in LF or CRLF; in a file that begins without any LF, in CR.

    Raises:
        UserError: the packed file is damaged (with the line, where that is behind the first `HEAD`
            bytes), or the file is not UTF-8 text.
    """
    number = 0
    with open_text(path) as (stream, head):
        read = _read_any_ending(stream) if b"\r" in head and b"\n" not in head else stream.readline
        try:
            while raw := read(LONGEST):
                number += 1
                yield _make_line(number, raw, read)
        except DAMAGE as error:
            raise _make_damage_error(f"{path}:{number + 1}", error) from error


def count_lines(path: Path) -> int:
    """Return the number of LF in a file, plus one where something follows the last."""
    lines, last = 0, b"\n"
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            lines, last = lines + block.count(b"\n"), block
    return lines + (not last.endswith(b"\n"))


def _read_any_ending(stream: IO[bytes]):  # type: ignore[no-untyped-def]
    """Return a `readline` that accepts CR as the end of a line and returns lines that end in LF."""
    text = io.TextIOWrapper(cast(IO[bytes], stream), encoding="latin-1", newline=None)
    return lambda size: text.readline(size).encode("latin-1")


def _make_line(number: int, raw: bytes, read) -> Line:  # type: ignore[no-untyped-def]
    if len(raw) < LONGEST or raw.endswith(b"\n"):
        return _decode_line(number, raw.removeprefix(BOM) if number == 1 else raw)
    while (more := read(LONGEST)) and not more.endswith(b"\n"):
        pass
    return Line(number, "\n", f"is longer than {LONGEST >> 20} MB.")


def _make_damage_error(where: str, error: Exception) -> UserError:
    return UserError(
        f"the file is damaged or cut off: {error}.", where=where, fix="fetch or pack the file again"
    )


def _decode_line(number: int, raw: bytes) -> Line:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text: byte 0x{raw[error.start]:02x} at position {error.start}."
        return Line(number, raw.decode("utf-8", errors="replace").replace("\0", "\ufffd"), why)
    if "\0" in text:
        why = f"holds a NUL byte at position {raw.index(0)}: the file is damaged, or no text."
        return Line(number, text.replace("\0", "\ufffd"), why)
    return Line(number, text, None)
