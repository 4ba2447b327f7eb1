"""Reader of comma or tab separated files with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ftcli.core.errors import UserError
from ftcli.data.readers.lines import count_lines, read_lines
from ftcli.data.rows import LocatedRowError, RawRow, RowOrError, make_broken_row_error, shorten

SUFFIXES = (".csv", ".tsv")
csv.field_size_limit(1 << 30)


def read(path: Path, unit: str = "file") -> Iterator[RowOrError]:
    """Yield one row a record (a quoted field may span lines); the origin is the record's first line.

    Raises:
        UserError: the header cannot be used, or a record is invalid inside quotes that began on an
            earlier line, so that the start of the next record is unknown.
    """
    broken: list[str] = []

    def text() -> Iterator[str]:
        for line in read_lines(path):
            if line.error:
                broken.append(line.error)
            yield line.text

    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    records = csv.reader(text(), delimiter=delimiter, strict=True)
    header = _read_header(records, path, broken)
    while True:
        start = records.line_num + 1
        try:
            record = next(records, None)
        except csv.Error as error:
            if records.line_num > start:
                raise _make_unclosed_quote_error(path, start, records.line_num, error) from error
            yield make_broken_row_error(f"is not valid CSV: {error}.", f"{path}:{start}")
            broken.clear()
            continue
        if record is None:
            return
        if record:
            yield _make_row(header, record, f"{path}:{start}", records.line_num, broken)
        broken.clear()


def _read_header(records: Iterator[list[str]], path: Path, broken: list[str]) -> list[str]:
    place, fix = f"{path}:1", "the first line names the columns, as in: prompt,completion"
    header: list[str] = []
    try:
        while not any(header):  # blank lines before it
            header = [name.strip() for name in next(records)]
    except StopIteration as error:
        raise UserError("the file is empty; expected a header line.", str(path), fix) from error
    except csv.Error as error:
        raise UserError(f"the header is not valid CSV: {error}.", place, fix) from error
    if broken:
        raise UserError(f"the header {broken[0]}", place, "save the file as UTF-8 text")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        what = f"the header names {shorten(twice[0])} more than once."
        raise UserError(what, place, "give every column its own name")
    return header


def _make_unclosed_quote_error(path: Path, start: int, end: int, error: csv.Error) -> UserError:
    return UserError(
        f"a quote that is opened here is not closed as it should be up to line {end}: {error}. Rows "
        "may be hidden in between, so that none is skipped.",
        where=f"{path}:{start}",
        fix='close the quote or write it twice (""), or write the rows as JSON lines',
    )


def _make_row(
    header: list[str], record: list[str], origin: str, end: int, broken: list[str]
) -> RawRow | LocatedRowError:
    if broken:
        return make_broken_row_error(broken[0], origin)
    if len(record) != len(header):
        first = origin.rpartition(":")[2]
        span = "" if first == str(end) else f" Its quotes reach to line {end}."
        return make_broken_row_error(
            f"has {len(record)} fields, the header has {len(header)}.{span}", origin
        )
    return RawRow(dict(zip(header, record, strict=True)), origin)


def count(path: Path) -> int:
    """Return the number of lines behind the header; quoted line breaks count."""
    return count_lines(path) - 1
