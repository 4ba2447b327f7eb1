"""Parquet files, read batch by batch; every row that the file says it has comes out or is named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ftcli.data.readers.lines import open_bytes
from ftcli.data.rows import Item, Row, bad, brief
from ftcli.errors import UserError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

SUFFIXES = (".parquet",)
BATCH = 1024


def read(path: Path, unit: str = "file") -> Iterator[Item]:
    """One row a record; the origin is the file and the row's number from 0.

    Raises:
        UserError: the file is damaged, has fewer rows than it says, or two columns of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with (
            _opened(path) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            _refuse_twice(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=BATCH):
                for values in _values(batch):
                    origin = f"{path}[{number}]"
                    yield bad(values, origin) if isinstance(values, str) else Row(values, origin)
                    number += 1
            if number != file.metadata.num_rows:
                raise pa.ArrowInvalid(f"it says that it has {file.metadata.num_rows:,} rows")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the file cannot be opened
        raise _damaged(path, number, error) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """What can be read from its end: the file, or what a .gz holds, unpacked to where nobody sees it."""
    if not path.name.lower().endswith(".gz"):
        yield path
        return
    with open_bytes(path) as packed, TemporaryFile() as whole:
        shutil.copyfileobj(packed, whole)
        whole.seek(0)
        yield whole


def _values(batch: RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; of a row whose values Python cannot hold, why."""
    try:
        rows = batch.to_pylist()
    except Exception:  # text that is not UTF-8, a date out of range: found one by one
        rows = []
    yield from rows
    for index in range(len(rows), batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except Exception as error:  # whatever the conversion of a value raises
            yield f"holds a value that cannot be read: {brief(str(error))}."


def _refuse_twice(names: list[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"the file has more than one column {brief(twice[0])}.",
            where=str(path),
            fix="give every column its own name",
        )


def _damaged(path: Path, number: int, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(
        f"cannot be read as parquet after row {number}: {lines[0].rstrip('.')}.",
        where=f"{path}[{number}]",
        fix="fetch or write the file again",
    )
