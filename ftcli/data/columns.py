"""From the columns of a row to the fields of a format, and what to say when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from ftcli.data import formats
from ftcli.data.formats import REFERENCES, as_text
from ftcli.data.rows import Unusable, listed
from ftcli.errors import UserError

SHOWN = 300  # characters of a row in a message


class Columns:
    """The format of a data set, with the column each of its fields is read from.

    Args:
        name: a format, or auto to choose the only one whose required fields are all there.
        mapping: field -> column; a field that is not mapped is read from the column of its name.
        first: a row to judge by.
        where: what to name in messages.
        origin: where that row stands.

    Raises:
        UserError: unknown format or field, no or several formats fit, required columns are missing.
    """

    def __init__(
        self,
        name: str,
        mapping: Mapping[str, str],
        first: Mapping[str, Any],
        where: str,
        origin: str = "",
    ) -> None:
        self.mapping = dict(mapping)
        shown = _first(first, origin)
        self.name = _detect(self.mapping, first, where, shown) if name == "auto" else name
        self.format = formats.find(self.name)
        _check_fields(self.mapping, self.name, self.format)
        missing = self.missing(first)
        if missing:
            raise _wrong_columns(self.name, missing, first, where, shown)

    def column(self, field: str, row: Mapping[str, Any]) -> str | None:
        """The column of this row that holds the field; None when it has none."""
        if field in self.mapping:
            return self.mapping[field] if self.mapping[field] in row else None
        return next((c for c in _defaults(self.format, field) if c in row), None)

    def missing(self, row: Mapping[str, Any]) -> list[str]:
        """Required fields the row has no column for. References can stand in for the answer."""
        absent = [f for f in formats.required(self.format) if self.column(f, row) is None]
        answer = _answer(self.format)
        if answer in absent and self.column(REFERENCES, row):
            absent.remove(answer)
        return absent

    def example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The canonical example of a row, with its references.

        Raises:
            Unusable: the row lacks a column or holds the wrong kind of value.
        """
        missing = self.missing(row)
        if missing:
            wanted = ", ".join(f"'{self.mapping.get(field, field)}'" for field in missing)
            raise Unusable(f"has no column {wanted}; its columns are {listed(row) or 'none'}.")
        named = {field: self.column(field, row) for field in [*self.format.FIELDS, REFERENCES]}
        fields = {field: row[column] for field, column in named.items() if column}
        references = _references(fields.pop(REFERENCES, None))
        answer = _answer(self.format)
        if answer and answer not in fields and references:
            fields[answer] = references[0]
        example = self.format.example(fields)
        example[REFERENCES] = references or _own_answer(example)
        return example


def _defaults(module: ModuleType, field: str) -> Sequence[str]:
    return getattr(module, "DEFAULTS", {}).get(field, (field,))


def _answer(module: ModuleType) -> str | None:
    """The field that references can replace in rows that are only judged, never trained on."""
    return next((f for f in ("completion", "output") if f in module.FIELDS), None)


def _references(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        return [as_text(v, REFERENCES, empty=True) for v in value]
    raise Unusable(f"'{REFERENCES}' is neither text nor a list of texts.")


def _own_answer(example: dict[str, Any]) -> list[str]:
    """The answer of the row itself, where no references are given."""
    if "completion" in example:
        return [example["completion"]]
    messages = example.get("messages") or example.get("chosen")
    if isinstance(messages, list) and messages[-1]["role"] == "assistant":
        return [messages[-1]["content"]]
    return [messages] if isinstance(messages, str) else []


def _detect(mapping: Mapping[str, str], row: Mapping[str, Any], where: str, shown: str) -> str:
    there = set(mapping) | set(row)
    fitting = []
    for name in formats.names():
        module = formats.find(name)
        needed = formats.required(module)
        if all(there & {field, *_defaults(module, field)} for field in needed):
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    columns = f"columns are [{listed(row)}]"
    if fitting:
        raise UserError(
            f"{columns}; they fit several formats: {', '.join(fitting)}. {shown}",
            where=where,
            fix=f"set data.format={fitting[0]} or data.format={fitting[1]}",
        )
    tries = [(name, _suggest(name, row)) for name in formats.names()]
    complete = [f"data.format={name} {s}" for name, s in tries if s]
    raise UserError(
        f"{columns}; no format is recognised by them. {shown}",
        where=where,
        fix=f"try: {complete[0]}"
        if complete
        else "set data.format and data.columns.<field>=<column>",
    )


def _check_fields(mapping: Mapping[str, str], name: str, module: ModuleType) -> None:
    fields = [*module.FIELDS, REFERENCES]
    for field in mapping:
        if field not in fields:
            near = get_close_matches(field, fields, 1)
            raise UserError(
                f"'{field}' is not a field of format={name}."
                + (f" Did you mean {near[0]}?" if near else ""),
                where=f"data.columns.{field}",
                fix=f"fields of {name}: {', '.join(fields)}",
            )


def _wrong_columns(
    name: str, missing: list[str], row: Mapping[str, Any], where: str, shown: str
) -> UserError:
    wanted = ", ".join(formats.required(formats.find(name)))
    suggestion = _suggest(name, row)
    return UserError(
        f"columns are [{listed(row)}]; format={name} wants [{wanted}] "
        f"(not found: {', '.join(missing)}). {shown}",
        where=where,
        fix=f"try: {suggestion}"
        if suggestion
        else "map them: " + " ".join(f"data.columns.{field}=<column>" for field in missing),
    )


def _suggest(name: str, row: Mapping[str, Any]) -> str:
    """Overrides that map every required field to a likely column; "" when one has none."""
    module = formats.find(name)
    free = list(row)
    parts = []
    for field in formats.required(module):
        likely = [*_defaults(module, field), *module.SYNONYMS.get(field, ())]
        lowered = {column.lower(): column for column in free}
        column = next((lowered[word] for word in likely if word in lowered), None)
        if column is None:
            return ""
        free.remove(column)
        if column != field:
            parts.append(f"data.columns.{field}={column}")
    return " ".join(parts)


def _first(row: Mapping[str, Any], origin: str) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"First row{f' ({origin})' if origin else ''}: {text}"
