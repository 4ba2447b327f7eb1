"""Map the columns of rows to the fields of a format, and build canonical examples from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from ftcli.core.errors import UserError
from ftcli.data import formats
from ftcli.data.conversation.learning import parse_flag
from ftcli.data.format_matching import FormatMatcher
from ftcli.data.formats import LABEL, REFERENCES, default_columns
from ftcli.data.rows import RowError, as_text, list_names, shorten

#: Fields by which a row becomes a conversation.
SURROUNDINGS = ("system", "history", "tools")
LAYOUTS = 1000  # different sets of columns that are remembered
#: Columns beside `text` by which a row is one turn of a conversation (OpenAssistant).
PARTS_OF_A_CONVERSATION = {"role", "from", "parent_id", "speaker"}


class Columns:
    """The format of a data set, with the column each of its fields is read from.

    Args:
        name: a format, or auto to choose the only one whose required fields are all there.
        mapping: field -> column, None to leave the field out; a field that is not mapped is read from
            the column of its name.
        first: the row by which the format is chosen.
        where: the configuration key that messages name.
        origin: origin of the first row.
        others: further rows. If one of them has a system message, a history or tools, all rows become
            conversations.

    Raises:
        UserError: unknown format or field, no or several formats fit, required columns are missing.
    """

    def __init__(
        self,
        name: str,
        mapping: Mapping[str, str | None],
        first: Mapping[str, Any],
        where: str,
        origin: str = "",
        others: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.mapping = dict(mapping)
        self._found: dict[
            tuple[str, ...], dict[str, str | None]
        ] = {}  # names of columns -> columns
        rows = [first, *others]
        matcher = FormatMatcher(first, where, origin)
        self.format_name = _detect_format(self.mapping, first, matcher) if name == "auto" else name
        self.format_module = formats.load_format(self.format_name)
        self._fields = [*self.format_module.FIELDS, REFERENCES]
        self._required = formats.required_fields(self.format_module)
        self._answer = _find_answer_field(self.format_module)
        self._surroundings = [f for f in SURROUNDINGS if f in self.format_module.FIELDS]
        _check_fields(self.mapping, self.format_name, self.format_module, matcher.key)
        if missing := self.list_missing(first):
            raise matcher.make_missing_columns_error(self.format_name, missing)
        if where.endswith(".path"):  # other splits may have fewer columns
            self._refuse_absent(rows, matcher)
        self.as_conversations = any(self._has_surroundings(row) for row in rows)

    def find_column(self, field: str, row: Mapping[str, Any]) -> str | None:
        """Return the column of a row that holds a field; None where there is none."""
        return self._find_columns(row).get(field)

    def _find_columns(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return field -> column of a row; looked up once for all rows of the same columns."""
        names = tuple(row)
        found = self._found.get(names)
        if found is None:
            if len(self._found) >= LAYOUTS:
                self._found.clear()
            found = self._found[names] = {f: self._search_column(f, row) for f in self._fields}
        return found

    def _search_column(self, field: str, row: Mapping[str, Any]) -> str | None:
        if field in self.mapping:
            column = self.mapping[field]
            return column if column is not None and column in row else None
        taken = self.mapping.values()
        return next(
            (c for c in default_columns(self.format_module, field) if c in row and c not in taken),
            None,
        )

    def list_used(self, row: Mapping[str, Any]) -> set[str]:
        """Return the columns of a row from which a field is read."""
        return {column for field in self._fields if (column := self.find_column(field, row))}

    def list_missing(self, row: Mapping[str, Any]) -> list[str]:
        """Return the required fields that have no column in a row. References can replace the answer."""
        columns = self._find_columns(row)
        absent = [field for field in self._required if columns[field] is None]
        if self._answer in absent and columns[REFERENCES]:
            absent.remove(self._answer)
        return absent

    def build_example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Build the canonical example of a row, with its references.

        Raises:
            RowError: the row lacks a column, holds the wrong kind of value, or says that its answer is
                a bad one.
        """
        missing = self.list_missing(row)
        if missing:
            wanted = ", ".join(f"'{self.mapping.get(field, field)}'" for field in missing)
            raise RowError(f"has no column {wanted}; its columns are {list_names(row) or 'none'}.")
        named = self._find_columns(row)
        fields = {field: row[column] for field, column in named.items() if column}
        label = fields.pop(LABEL, None)
        if (
            LABEL in self.mapping or parse_flag(label) is not None
        ):  # other values name a row's class
            _refuse_bad_answer(label, named.get(LABEL))
        if not self._has_surroundings(row):
            fields = {f: v for f, v in fields.items() if f not in SURROUNDINGS}
        if self.as_conversations:
            fields |= {f: None for f in self._surroundings if f not in fields}
        references = _parse_references(fields.pop(REFERENCES, None))
        answer = self._answer
        if answer and answer not in fields and references:
            fields[answer] = references[0]
        example = self.format_module.example(fields)
        _refuse_hidden(example)
        example[REFERENCES] = references or _take_answer(example)
        return example

    def _refuse_absent(self, rows: Sequence[Mapping[str, Any]], matcher: FormatMatcher) -> None:
        """Raise a UserError for a column that is mapped to an optional field and that no row has."""
        for field, column in self.mapping.items():
            optional = self.format_module.FIELDS.get(field) is False
            if optional and column is not None and not any(column in row for row in rows):
                raise matcher.absent_column_error(field, column)

    def _has_surroundings(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has a system message, a history or tools."""
        found = self._find_columns(row)
        columns = (found[field] for field in self._surroundings)
        return any(_has_content(row[column]) for column in columns if column)


def _has_content(value: Any) -> bool:
    """Whether a value is not empty; empty lists and mappings may be written as JSON text."""
    empty = isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")
    return bool(value) and not empty


def _refuse_bad_answer(label: Any, column: str | None) -> None:
    good = None if label is None else parse_flag(label)
    if good is False:
        raise RowError(
            f"has '{column}': {json.dumps(label)}: a bad answer, not to be learned.", "not to learn"
        )
    if label is not None and good is None:
        raise RowError(
            f"'{column}' is {shorten(label)}; it says whether the answer is a good one: true or false. "
            "data.columns.label=null leaves the column out."
        )


def _refuse_hidden(example: Mapping[str, Any]) -> None:
    """Raise RowError for a conversation whose answers are all marked as not to be learned."""
    answers = [m for m in example.get("messages", ()) if m["role"] == "assistant"]
    if answers and not any(m.get("learn", True) for m in answers):
        raise RowError("has only answers that are marked as not to be learned.", "not to learn")


def _find_answer_field(module: ModuleType) -> str | None:
    """Return the field that references can replace in rows that are only used for evaluation."""
    return next((f for f in ("completion", "output") if f in module.FIELDS), None)


def _parse_references(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        return [as_text(v, REFERENCES, empty=True) for v in value]
    raise RowError(f"'{REFERENCES}' is neither text nor a list of texts.")


def _take_answer(example: dict[str, Any]) -> list[str]:
    """Return the row's own answer, for rows without references."""
    if "completion" in example:
        return [example["completion"]]
    messages = example.get("messages") or example.get("chosen")
    if isinstance(messages, list) and messages[-1]["role"] == "assistant":
        content = messages[-1]["content"]  # a call alone has no text to compare with
        return [content] if content or "tool_calls" not in messages[-1] else []
    return [messages] if isinstance(messages, str) else []


def _detect_format(
    mapping: Mapping[str, str | None], row: Mapping[str, Any], matcher: FormatMatcher
) -> str:
    fitting = [name for name in formats.list_formats() if matcher.fits(name, mapping)]
    if len(fitting) != 1:
        raise (
            matcher.make_several_formats_error(fitting)
            if fitting
            else matcher.make_no_format_error()
        )
    if fitting == ["text"] and set(row) & PARTS_OF_A_CONVERSATION:
        raise matcher.single_turns_error(sorted(set(row) & PARTS_OF_A_CONVERSATION))
    return fitting[0]


def _check_fields(
    mapping: Mapping[str, str | None], name: str, module: ModuleType, key: str
) -> None:
    fields = [*module.FIELDS, REFERENCES]
    for field in mapping:
        if field not in fields:
            near = get_close_matches(field, fields, 1)
            raise UserError(
                f"'{field}' is not a field of format={name}."
                + (f" Did you mean {near[0]}?" if near else ""),
                where=f"{key}.columns.{field}",
                fix=f"fields of {name}: {', '.join(fields)}",
            )
