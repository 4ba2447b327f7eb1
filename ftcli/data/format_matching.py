"""Match the columns of a row with formats; errors where none, several, or not the chosen one fits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftcli.core.errors import UserError
from ftcli.data import formats
from ftcli.data.rows import RowError, list_names

SHOWN = 300  # characters of a row in a message


class FormatMatcher:
    """Matches the columns of a data set with formats and builds the errors about them.

    Args:
        row: the first row.
        where: the configuration key that messages name.
        origin: origin of the first row.
    """

    def __init__(self, row: Mapping[str, Any], where: str, origin: str = "") -> None:
        self.row, self.where = row, where
        self.key = where.rpartition(".")[0] or "data"  # of the source: data, data.sources.1
        self._shown = _format_row(row, origin)
        self._columns = f"columns are [{list_names(row)}]"

    def make_several_formats_error(self, fitting: Sequence[str]) -> UserError:
        """Error for columns that fit more than one format."""
        return UserError(
            f"{self._columns}; they fit several formats: {', '.join(fitting)}. {self._shown}",
            where=self.where,
            fix=f"set {self.key}.format={fitting[0]} or {self.key}.format={fitting[1]}",
        )

    def make_no_format_error(self) -> UserError:
        """Error for columns that fit no format."""
        tries = [
            f"{self.key}.format={name} {s}"
            for name in formats.list_formats()
            if (s := self._format_mapping(name))
        ]
        wanted = "; ".join(
            f"{name} wants {', '.join(formats.required_fields(formats.load_format(name)))}"
            for name in formats.list_formats()
        )
        return UserError(
            f"{self._columns}; no format is recognised by them. {self._shown}",
            where=self.where,
            fix=f"try: {tries[0]}"
            if tries
            else f"set {self.key}.format and {self.key}.columns.<field>=<column>, or rewrite the rows: {wanted}",
        )

    def make_missing_columns_error(self, name: str, missing: Sequence[str]) -> UserError:
        """Error for a chosen format whose required columns are missing."""
        wanted = ", ".join(formats.required_fields(formats.load_format(name)))
        mapping = self._format_mapping(name)
        return UserError(
            f"{self._columns}; format={name} wants [{wanted}] "
            f"(not found: {', '.join(missing)}). {self._shown}",
            where=self.where,
            fix=f"try: {mapping}"
            if mapping
            else "map them: "
            + " ".join(f"{self.key}.columns.{field}=<column>" for field in missing),
        )

    def absent_column_error(self, field: str, column: str) -> UserError:
        """Error for a mapped column that does not exist."""
        return UserError(
            f"{self._columns}; there is no column '{column}'. {self._shown}",
            where=f"{self.key}.columns.{field}",
            fix=f"name one of them, or {self.key}.columns.{field}=null to do without",
        )

    def single_turns_error(self, signs: Sequence[str]) -> UserError:
        """Error for rows that are one turn each: as plain text they would lose speaker and order."""
        return UserError(
            f"{self._columns}; a row seems to be one turn of a conversation ({', '.join(signs)}). "
            f"{self._shown}",
            where=self.where,
            fix="write one row a conversation, its turns under 'messages' as role and content; or "
            f"{self.key}.format=text to learn each text by itself",
        )

    def fits(self, name: str, mapped: Iterable[str] = ()) -> bool:
        """Whether every required field of a format is mapped or has a column of its name."""
        module = formats.load_format(name)
        there = {*mapped, *self.row}
        return all(
            there & {f, *formats.default_columns(module, f)}
            for f in formats.required_fields(module)
        )

    def guess_mapping(self, name: str) -> dict[str, str] | None:
        """Guess field -> column; None when a required field has none, or the row gives no example."""
        module = formats.load_format(name)
        free, mapping = list(self.row), {}
        for field, needed in module.FIELDS.items():
            column = self._guess_column(field, name, free)
            if column is not None:
                free.remove(column)
                mapping[field] = column
            elif needed:
                return None
        try:
            module.example({field: self.row[column] for field, column in mapping.items()})
        except RowError as error:
            if error.reason in ("unfit", "broken"):
                return None
        return {field: column for field, column in mapping.items() if column != field}

    def _format_mapping(self, name: str) -> str:
        """Return the guessed mapping as overrides; "" where there is none."""
        mapping = self.guess_mapping(name) or {}
        return " ".join(f"{self.key}.columns.{field}={column}" for field, column in mapping.items())

    def _guess_column(self, field: str, name: str, free: Sequence[str]) -> str | None:
        module = formats.load_format(name)
        likely = [*formats.default_columns(module, field), *module.SYNONYMS.get(field, ())]
        lowered = {column.lower(): column for column in free}
        return next((lowered[word] for word in likely if word in lowered), None)


def _format_row(row: Mapping[str, Any], origin: str) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"First row{f' ({origin})' if origin else ''}: {text}"
