"""Plain text files: rows are files, paragraphs or lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftcli.data.readers.lines import Line, lines
from ftcli.data.rows import Item, Row, bad

SUFFIXES = (".txt", ".text")
#: A long file becomes several rows near this many characters, so that memory stays constant and a
#: held-out share can be taken from a single book. They break at blank lines.
PIECE = 1 << 15


def read(path: Path, unit: str = "file") -> Iterator[Item]:
    """Rows with the one column `text`, each with the line where it begins."""
    held: list[Line] = []
    size = 0
    for line in lines(path):
        blank = not line.text.strip()
        if held and _ends(unit, blank, size):
            yield from _row(held, path)
            held, size = [], 0
        if not blank or (held and unit == "file"):
            held.append(line)
            size += len(line.text)
    if held:
        yield from _row(held, path)


def _ends(unit: str, blank: bool, size: int) -> bool:
    """Whether the row that is being gathered ends before the next line."""
    if unit == "line":
        return True
    if unit == "paragraph":
        return blank
    return (blank and size >= PIECE) or size >= 4 * PIECE


def _row(held: list[Line], path: Path) -> Iterator[Item]:
    origin = f"{path}:{held[0].number}"
    broken = next((line for line in held if line.error), None)
    if broken is not None:
        yield bad(str(broken.error), f"{path}:{broken.number}")
        return
    yield Row({"text": "".join(line.text for line in held).rstrip()}, origin)
