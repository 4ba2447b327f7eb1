"""Labelled images and sounds of a data set on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data.media.items import Item, normalize_split
from ftcli.data.rows import RawRow
from ftcli.data.sources.hub import Hub

if TYPE_CHECKING:
    from datasets import Dataset


def read_items(
    path: str, splits: Sequence[str], column: str | None, label: str | None, group: str | None
) -> Iterator[Item]:
    """Yield the examples of splits of a hub data set, still encoded.

    Args:
        column: column of the examples; None: the first column of images or sounds.
        label: column of the class; None: `label`.
        group: column of the group; None: no groups.

    Raises:
        UserError: the data set is not available, or has no such split or column.
    """
    for split in splits:
        source = Hub(path, split)
        rows = source.dataset
        key = column or _find_column(rows, path)
        _refuse_missing(rows, [key, label or "label", *([group] if group else [])], path)
        encoded = rows.cast_column(key, type(rows.features[key])(decode=False))
        names = _read_class_names(rows, label or "label")
        groups = [str(value) for value in rows[group]] if group else [""] * len(rows)
        for row, name in enumerate(names):
            yield Item(
                _make_reader(encoded, key, row),
                name,
                f"{source.place}[{row}]",
                f"{source.content_hash}:{row}",
                groups[row],
                normalize_split(split),
            )


def read_encoded_images(source: Hub, column: str) -> Iterator[RawRow]:
    """Yield the rows of a split, each image as a function that returns its encoded file.

    Raises:
        UserError: there is no such column, or it holds no images.
    """
    rows = source.dataset
    kind: Any = type(rows.features.get(column))
    if kind.__name__ != "Image":
        raise UserError(
            f"{source.path} has no images in '{column}'; it has {', '.join(rows.features)}.",
            where="data.columns.image",
            fix="data.columns.image=NAME of the column",
        )
    encoded = rows.cast_column(column, kind(decode=False))
    for number, values in enumerate(rows.remove_columns(column)):
        read = _make_reader(encoded, column, number)
        yield RawRow({**values, column: read}, f"{source.place}[{number}]")


def _find_column(rows: Dataset, path: str) -> str:
    kinds = ("Image", "Audio")
    column = next((n for n, f in rows.features.items() if type(f).__name__ in kinds), None)
    if column is None:
        raise UserError(
            f"{path} has no column of images or sounds; it has {', '.join(rows.features)}.",
            where="data.path",
        )
    return str(column)


def _refuse_missing(rows: Dataset, columns: list[str], path: str) -> None:
    for column in columns:
        if column not in rows.features:
            raise UserError(
                f"{path} has no column {column!r}; it has {', '.join(rows.features)}.",
                where="data",
                fix="data.label=COLUMN, data.array=COLUMN with the examples",
            )


def _read_class_names(rows: Dataset, label: str) -> list[str]:
    """Return the class name of each row."""
    named = getattr(rows.features[label], "names", None)
    return [str(named[value] if named else value) for value in rows[label]]


def _make_reader(rows: Dataset, key: str, row: int) -> Callable[[], bytes]:
    def read() -> bytes:
        cell = rows[row][key]
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        with open(cell["path"], "rb") as file:
            return file.read()

    return read
