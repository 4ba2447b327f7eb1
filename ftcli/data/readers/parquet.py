"""Reader of parquet files, batch by batch; every row is yielded, or its error is.

The values of a column have one type, so that nested objects with different keys become a struct with the
keys of all of them, and null where a row has none. Such nulls are removed; see `drop_struct_nulls`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data.readers.lines import open_bytes
from ftcli.data.rows import RawRow, RowOrError, make_broken_row_error, shorten

if TYPE_CHECKING:
    from pyarrow import DataType, RecordBatch

SUFFIXES = (".parquet",)
BATCH = 1024


def read(path: Path, unit: str = "file") -> Iterator[RowOrError]:
    """Yield one row a record; the origin is the file and the row's number from 0.

    Raises:
        UserError: the file is damaged, has fewer rows than its metadata say, or two columns of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with (
            _open_seekable(path) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            _refuse_duplicates(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=BATCH):
                for values in _read_values(batch):
                    origin = f"{path}[{number}]"
                    yield (
                        make_broken_row_error(values, origin)
                        if isinstance(values, str)
                        else RawRow(values, origin)
                    )
                    number += 1
            if number != file.metadata.num_rows:
                raise pa.ArrowInvalid(f"it says that it has {file.metadata.num_rows:,} rows")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the file cannot be opened
        raise _make_damage_error(path, number, error) from error


@contextmanager
def _open_seekable(path: Path) -> Iterator[Any]:
    """Yield a seekable source: the path, or an unnamed temporary file with the content of a .gz."""
    if not path.name.lower().endswith(".gz"):
        yield path
        return
    with open_bytes(path) as packed, TemporaryFile() as whole:
        shutil.copyfileobj(packed, whole)
        whole.seek(0)
        yield whole


def _read_values(batch: RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a batch; for a row that cannot be converted to Python, the reason."""
    types = {field.name: field.type for field in batch.schema}
    try:
        rows = batch.to_pylist()
    except Exception:  # text that is not UTF-8, a date out of range: found one by one
        rows = []
    yield from (_make_row(row, types) for row in rows)
    for index in range(len(rows), batch.num_rows):
        try:
            yield _make_row(batch.slice(index, 1).to_pylist()[0], types)
        except Exception as error:  # whatever the conversion of a value raises
            yield f"holds a value that cannot be read: {shorten(str(error))}."


def _make_row(values: dict[str, Any], types: dict[str, DataType]) -> dict[str, Any]:
    return {name: drop_struct_nulls(value, types[name]) for name, value in values.items()}


def drop_struct_nulls(value: Any, type: DataType) -> Any:
    """Remove the nulls of structs from an Arrow value, and convert its maps to mappings.

    A null in a struct cannot be told from a key that the object never had, and counts as the latter.
    Nulls in columns, lists and maps are kept.
    """
    import pyarrow.types as kinds

    if value is None or not kinds.is_nested(type):
        return value
    if kinds.is_struct(type) and isinstance(value, dict):  # not one that a library decoded
        inner = {type.field(i).name: type.field(i).type for i in range(type.num_fields)}
        return {k: drop_struct_nulls(v, inner[k]) for k, v in value.items() if v is not None}
    if kinds.is_map(type) and isinstance(value, list):
        return {key: drop_struct_nulls(v, type.item_type) for key, v in value}
    if hasattr(type, "value_type") and isinstance(value, list):
        return [drop_struct_nulls(item, type.value_type) for item in value]
    return value


def _refuse_duplicates(names: list[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"the file has more than one column {shorten(twice[0])}.",
            where=str(path),
            fix="give every column its own name",
        )


def _make_damage_error(path: Path, number: int, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(
        f"cannot be read as parquet after row {number}: {lines[0].rstrip('.')}.",
        where=f"{path}[{number}]",
        fix="fetch or write the file again",
    )


def count(path: Path) -> int:
    """Return the number of rows that the file's metadata say."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
