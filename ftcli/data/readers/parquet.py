"""Parquet files, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftcli.data.rows import Item, Row
from ftcli.errors import UserError

SUFFIXES = (".parquet",)
BATCH = 1024


def read(path: Path, unit: str = "file") -> Iterator[Item]:
    """One row a record; the origin is the file and the row's number from 0."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    yield Row(values, f"{path}[{number}]")
                    number += 1
    except pa.ArrowException as error:
        raise UserError(
            f"cannot be read as parquet after row {number}: {error}.",
            where=str(path),
            fix="fetch or write the file again",
        ) from error
