"""Comma or tab separated columns with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ftcli.data.readers.lines import lines
from ftcli.data.rows import Item, Row, bad
from ftcli.errors import UserError

SUFFIXES = (".csv", ".tsv")
csv.field_size_limit(1 << 30)


def read(path: Path, unit: str = "file") -> Iterator[Item]:
    """One row a record (a quoted field may span lines); the origin is the record's first line."""
    undecoded: dict[int, str] = {}

    def text() -> Iterator[str]:
        for line in lines(path):
            if line.error:
                undecoded[line.number] = line.error
            yield line.text

    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    records = csv.reader(text(), delimiter=delimiter, strict=True)
    header = _header(records, path, undecoded)
    while True:
        start = records.line_num + 1
        try:
            record = next(records, None)
        except csv.Error as error:
            yield bad(f"is not valid CSV: {error}.", f"{path}:{start}")
            continue
        if record is None:
            return
        if record:
            yield _row(header, record, f"{path}:{start}", list(undecoded.values()))
        undecoded.clear()


def _header(records: Iterator[list[str]], path: Path, undecoded: dict[int, str]) -> list[str]:
    try:
        header = [name.strip() for name in next(records, [])]
    except csv.Error as error:
        raise UserError(f"the header is not valid CSV: {error}.", where=f"{path}:1") from error
    if undecoded:
        raise UserError(f"the header {next(iter(undecoded.values()))}", where=f"{path}:1")
    if not header:
        raise UserError("the file is empty; expected a header line.", where=str(path))
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(
            f"the header names '{twice[0]}' more than once.",
            where=f"{path}:1",
            fix="give every column its own name",
        )
    return header


def _row(header: list[str], record: list[str], origin: str, undecoded: list[str]) -> Item:
    if undecoded:
        return bad(undecoded[0], origin)
    if len(record) != len(header):
        return bad(f"has {len(record)} fields, the header has {len(header)}.", origin)
    return Row(dict(zip(header, record, strict=True)), origin)
