"""Inspect the first rows of a source: format, number of prompts, and columns that nothing reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.data import formats
from ftcli.data.columns import Columns
from ftcli.data.conversation.exchange import extract_prompt
from ftcli.data.format_matching import FormatMatcher
from ftcli.data.rows import RawRow, RowError

if TYPE_CHECKING:
    from ftcli.data.sources import Source

MAX_ROWS = 5000  # rows that are counted
#: Words in the names of columns whose content belongs into the prompt.
PROMPT_WORDS = {
    "context", "contexts", "passage", "passages", "history", "system", "tool", "tools", "functions",
    "image", "images", "audio", "document", "documents", "doc", "docs", "knowledge", "background",
    "evidence", "instruction", "instructions", "input", "inputs", "prompt", "question", "query",
    "messages", "conversation", "conversations", "choices", "options", "hint", "persona", "schema",
}  # fmt: skip
#: Words by which a column only describes such content.
METADATA_WORDS = {
    "id", "ids", "idx", "index", "type", "source", "name", "category", "len", "length", "count", "tokens",
    "score", "rating", "url", "title", "lang", "language", "hash", "model", "time", "date",
}  # fmt: skip


@dataclass(frozen=True)
class SourceSummary:
    """Format and counts of the first `MAX_ROWS` rows of a source.

    Attributes:
        rows: rows that give an example.
        prompts: different prompts among them.
        format: format of the rows.
        columns: field -> column, for fields whose column has another name.
        others: further formats that fit the columns.
    """

    rows: int
    prompts: int
    format: str
    columns: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def summarize_source(source: Source, where: str) -> SourceSummary | None:
    """Summarise a source; None where its first row has no columns.

    Raises:
        UserError: the columns fit no format, not even by common other names of its fields.
    """
    first = next(_read_rows(source), None)
    if first is None or not first.values:
        return None
    matcher = FormatMatcher(first.values, where, first.origin)
    fitting = [name for name in formats.list_formats() if matcher.fits(name)]
    guesses = (
        [] if fitting else [name for name in formats.list_formats() if matcher.guess_mapping(name)]
    )
    mapping = matcher.guess_mapping(guesses[0]) or {} if guesses else {}
    several = fitting if len(fitting) > 1 else []
    name = next(iter(guesses or several), "auto")  # which refuses what cannot be told
    columns = Columns(name, mapping, first.values, where, first.origin)
    prompts = list(_read_prompts(source, columns))
    return SourceSummary(
        len(prompts), len(set(prompts)), columns.format_name, mapping, tuple(fitting[1:])
    )


def _read_rows(source: Source) -> Iterator[RawRow]:
    return (item for item in islice(source.rows(), MAX_ROWS) if isinstance(item, RawRow))


def _read_prompts(source: Source, columns: Columns) -> Iterator[str]:
    for row in _read_rows(source):
        try:
            yield extract_prompt(columns.build_example(row.values))
        except (RowError, UserError):
            continue


@dataclass
class UnusedColumns:
    """Columns with content, in the inspected rows, from which no field is read.

    Attributes:
        rows: number of inspected rows.
        columns: column -> number of rows in which it has content.
        prompt_like: the columns among them whose name suggests a part of the prompt.
    """

    rows: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    prompt_like: list[str] = field(default_factory=list)

    def note(self) -> str:
        """Return one sentence on the prompt-like columns; "" where there are none."""
        if not self.prompt_like:
            return ""
        named = ", ".join(
            f"'{c}' (in {self.columns[c]:,} of the first {self.rows:,} rows)"
            for c in self.prompt_like
        )
        plural = len(self.prompt_like) > 1
        return (
            f"column{'s' * plural} {named} {'are' if plural else 'is'} not used, though the name "
            "suggests a part of the prompt"
        )


def find_unused_columns(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> UnusedColumns:
    """Find the columns of rows from which no field is read."""
    unused = UnusedColumns()
    for row in rows:
        unused.rows += 1
        used = columns.list_used(row)
        read = [_encode_json_text(row[name]) for name in used]
        for name, value in row.items():
            if name in used or value in (None, "", [], {}):
                continue
            unused.columns[name] = unused.columns.get(name, 0) + 1
            if (
                name not in unused.prompt_like
                and _suggests_prompt(name)
                and not any(_encode_json_text(value) in t for t in read)
            ):
                unused.prompt_like.append(name)
    return unused


def _suggests_prompt(name: str) -> bool:
    words = set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
    return bool(words & PROMPT_WORDS) and not words & METADATA_WORDS


def _encode_json_text(value: Any) -> str:
    """Encode a value as it would appear inside a JSON text."""
    if isinstance(value, str):
        return json.dumps(value.strip(), ensure_ascii=False)[1:-1]
    return json.dumps(value, ensure_ascii=False, default=str)
