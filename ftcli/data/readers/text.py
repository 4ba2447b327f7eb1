"""Reader of plain text files: a row is a file, a paragraph or a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftcli.data.readers.lines import Line, read_lines
from ftcli.data.rows import RawRow, RowOrError, make_broken_row_error

SUFFIXES = (".txt", ".text")
#: A long file becomes several rows of about this many characters, cut at blank lines, so that memory is
#: constant and a share of a single book can be held out.
ROW_CHARACTERS = 1 << 15


def read(path: Path, unit: str = "file") -> Iterator[RowOrError]:
    """Yield rows with the column `text`; the origin is the line where the row begins."""
    gathered: list[Line] = []
    size = 0
    for line in read_lines(path):
        blank = not line.text.strip()
        if gathered and _ends_row(unit, blank, size):
            yield from _make_row(gathered, path)
            gathered, size = [], 0
        if not blank or (gathered and unit == "file"):
            gathered.append(line)
            size += len(line.text)
    if gathered:
        yield from _make_row(gathered, path)


def _ends_row(unit: str, blank: bool, size: int) -> bool:
    """Whether the row that is being gathered ends before the next line."""
    if unit == "line":
        return True
    if unit == "paragraph":
        return blank
    return (blank and size >= ROW_CHARACTERS) or size >= 4 * ROW_CHARACTERS


def _make_row(gathered: list[Line], path: Path) -> Iterator[RowOrError]:
    origin = f"{path}:{gathered[0].number}"
    broken = next((line for line in gathered if line.error), None)
    if broken is not None:
        yield make_broken_row_error(str(broken.error), f"{path}:{broken.number}")
        return
    yield RawRow({"text": "".join(line.text for line in gathered).rstrip()}, origin)
