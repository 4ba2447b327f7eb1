"""The `data` option of the two made-up languages: rows are written by a grammar and read from no file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.rows import RawRow
from ftcli.data.source_settings import SourceSettings
from ftcli.data.split import Splits
from ftcli.papers.lt_sft.languages import Kind, Language, Place, write_rows

ROWS = {"train": 4000, "test": 256}


@dataclass
class TwoLanguages(Data):
    """Rows of the languages of `ftcli.papers.lt_sft.languages`; `path` is LANGUAGE/KIND, as `south/text`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._splits = GeneratedSplits(self)


class GeneratedSplits(Splits):
    """Splits whose sources are written by the grammar."""

    def _find(self, settings: SourceSettings, key: str) -> GeneratedRows:
        return GeneratedRows(settings.path, settings.split, key)


class GeneratedRows:
    """The rows of a place and split, as a source of `ftcli.data`.

    Args:
        path: LANGUAGE/KIND.
        split: train or test.
        key: configuration key that messages name.

    Raises:
        UserError: there is no such language, kind or split.
    """

    def __init__(self, path: str, split: str = "train", key: str = "data") -> None:
        language, _, kind = path.partition("/")
        if language not in get_args(Language) or kind not in get_args(Kind) or split not in ROWS:
            raise UserError(
                f"the two languages have no rows '{path}', split '{split}'.",
                where=f"{key}.path",
                fix="north/text, north/topic, south/text or south/topic; split train or test",
            )
        self.path, self.split, self.key, self.place = path, split, key, f"{path}:{split}"
        self._place = Place(language, kind)  # type: ignore[arg-type]

    @cached_property
    def _written(self) -> list[dict[str, str]]:
        return write_rows(self._place, self.split, ROWS[self.split])

    def rows(self) -> Iterator[RawRow]:
        """Yield every row with its number as its origin."""
        for number, row in enumerate(self._written):
            yield RawRow(dict(row), f"{self.place}[{number}]")

    def count_rows(self) -> int:
        """Return the number of rows."""
        return ROWS[self.split]

    @cached_property
    def content_hash(self) -> str:
        """Hash of the rows, in hexadecimal."""
        return hashlib.blake2b(json.dumps(self._written).encode(), digest_size=16).hexdigest()

    def open_split(self, split: str) -> GeneratedRows:
        """Return another split of the same language and kind."""
        return GeneratedRows(self.path, split, self.key)

    def describe(self) -> dict[str, Any]:
        """Return the content of `data.json`."""
        return {"path": self.path, "split": self.split, "rows": ROWS[self.split]}
