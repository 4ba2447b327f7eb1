"""Reader of JSON files: an array of objects, an object with such an array, or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.errors import UserError
from ftcli.data import strict_json
from ftcli.data.readers import jsonl
from ftcli.data.readers.encoding import BOM
from ftcli.data.readers.json_array import ArrayReader
from ftcli.data.readers.lines import open_text, read_lines
from ftcli.data.rows import RawRow, RowOrError, make_broken_row_error
from ftcli.data.strict_json import LONGEST

SUFFIXES = (".json",)
HOLDERS = ("data", "rows", "examples", "train")
FIX = "write an array of objects, JSON lines, or an object with one list under 'data'"


def read(path: Path, unit: str = "file") -> Iterator[RowOrError]:
    """Yield the objects of a file; a top-level array is read in constant memory."""
    first = _read_first_character(path)
    if first == "[":
        for value, fault, origin in ArrayReader(path):
            yield (
                _make_row(value, origin) if fault is None else make_broken_row_error(fault, origin)
            )
    elif first == "{" and not _is_one_object(path):
        yield from jsonl.read(path, unit)
    elif first:
        yield from _read_held_array(path)


def _read_first_character(path: Path) -> str:
    with open_text(path) as (stream, _):
        head = stream.read(4096).removeprefix(BOM).lstrip()
        while not head and (more := stream.read(4096)):
            head = more.lstrip()
    return chr(head[0]) if head else ""


def _is_one_object(path: Path) -> bool:
    """Whether the file is one object that holds rows, rather than one object a line.

    Where neither the first line, the second, nor the whole file is a JSON value, the file counts as
    one object: it is refused as a whole, so that no row is skipped silently.
    """
    filled = (line for line in read_lines(path) if line.error or line.text.strip())
    first, second = next(filled), next(filled, None)
    if strict_json.is_value(first.text):
        return second is None and _find_holders(first.text) != []
    return second is None or _is_value(path) or not strict_json.is_value(second.text)


def _find_holders(text: str) -> list[str] | None:
    """Return the keys under which an object holds lists of rows; None where it is not valid JSON."""
    try:
        whole = strict_json.load(text)
    except ValueError:
        return None
    return [k for k in HOLDERS if isinstance(whole, dict) and isinstance(whole.get(k), list)]


def _is_value(path: Path) -> bool:
    with open_text(path) as (stream, _):
        return strict_json.is_value(stream.read(LONGEST).decode("utf-8-sig", errors="replace"))


def _read_held_array(path: Path) -> Iterator[RowOrError]:
    """Yield the rows of the array inside a single object such as {"data": [...]}."""
    whole = _load_whole(path)
    keys = [k for k in HOLDERS if isinstance(whole, dict) and isinstance(whole.get(k), list)]
    if len(keys) != 1:
        held = f"several lists of rows: {', '.join(keys)}" if keys else "no rows"
        raise UserError(f"the file holds {held}.", where=str(path), fix=FIX)
    for number, value in enumerate(whole[keys[0]]):
        yield _make_row(value, f"{path}[{number}]")


def _load_whole(path: Path) -> Any:
    with open_text(path) as (stream, _):
        raw = stream.read(LONGEST + 1).removeprefix(BOM)
    if len(raw) > LONGEST:
        what = f"the file is one object of more than {LONGEST >> 20} MB."
        raise UserError(what, where=str(path), fix="write JSON lines")
    try:
        return strict_json.load(raw.decode())
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text: byte 0x{raw[error.start]:02x}."
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(what, where=f"{path}:{line}", fix=FIX) from error
    except ValueError as error:
        line = getattr(error.__cause__, "lineno", 1)
        raise UserError(
            str(error), where=f"{path}:{line}", fix=f"fix the file, or {FIX}"
        ) from error


def _make_row(value: Any, origin: str) -> RowOrError:
    if isinstance(value, dict):
        return RawRow(value, origin)
    return make_broken_row_error(
        f"holds a {type(value).__name__}, expected an object with columns.", origin
    )
