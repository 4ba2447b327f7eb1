"""Sources of rows: a shipped data set, local files, or a hub; one module a kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ftcli.data.rows import RowOrError


class Source(Protocol):
    """Rows in a fixed order, and a hash that changes when they do."""

    #: Beginning of the origins of its rows.
    place: str

    def rows(self) -> Iterator[RowOrError]:
        """Yield every row, in constant memory."""

    def count_rows(self) -> int | None:
        """Return about how many rows there are, without reading them; None where that is not known."""

    @property
    def content_hash(self) -> str:
        """Hash of the content (not of names or times), in hexadecimal."""

    def open_split(self, split: str) -> Source:
        """Open another split of the same data set; UserError where there is none of that name."""

    def describe(self) -> dict[str, Any]:
        """Return the content of `data.json`: files or id, revision, licence."""


def find_source(
    path: str,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    text_unit: str = "file",
) -> Source:
    """Return the source of a `data.path`: `asset:<set>`, a file, folder or glob, or a hub id.

    Raises:
        UserError: there is no such file, folder, shipped set or hub id.
    """
    from ftcli.data.sources import asset, files, hub

    if path.startswith(asset.PREFIX):
        return asset.find_asset(path, split)
    if hub.is_id(path) and not files.exists_locally(path):
        return hub.Hub(path, split, name, revision)
    return files.find_files(path, split, text_unit)


def is_path(text: str) -> bool:
    """Whether `data.validation` or `data.test` is a path rather than the name of a split."""
    from ftcli.data.readers import can_read
    from ftcli.data.sources import asset, files

    local = Path(text)
    return (
        text.startswith(asset.PREFIX)
        or can_read(local)
        or files.exists_locally(text)
        or "/" in text
    )
