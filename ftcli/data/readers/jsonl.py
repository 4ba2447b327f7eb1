"""Reader of JSON lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftcli.data import strict_json
from ftcli.data.readers.lines import Line, count_lines, read_lines
from ftcli.data.rows import RawRow, RowOrError, make_broken_row_error

SUFFIXES = (".jsonl", ".ndjson")


def read(path: Path, unit: str = "file") -> Iterator[RowOrError]:
    """Yield one row a line; blank lines are skipped."""
    decoder = strict_json.Decoder()
    for line in read_lines(path):
        if line.error or line.text.strip():
            yield parse(line, f"{path}:{line.number}", decoder)


def parse(line: Line, origin: str, decoder: strict_json.Decoder) -> RowOrError:
    """Parse one line into a row, or the error of that row."""
    if line.error:
        return make_broken_row_error(line.error, origin)
    try:
        value = strict_json.load(line.text, decoder)
    except ValueError as error:
        return make_broken_row_error(str(error), origin)
    if not isinstance(value, dict):
        return make_broken_row_error(
            f"holds a {type(value).__name__}, expected an object with columns.", origin
        )
    return RawRow(value, origin)


def count(path: Path) -> int:
    """Return the number of lines, blank ones included."""
    return count_lines(path)
