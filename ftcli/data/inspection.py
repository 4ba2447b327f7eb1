"""What the first rows of a source hold: their format, different prompts, and columns that nothing reads."""

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
from ftcli.data.conversation.exchange import prompt_of
from ftcli.data.format_matching import FormatMatcher
from ftcli.data.rows import Row, Unusable

if TYPE_CHECKING:
    from ftcli.data.sources import Source

MOST = 5000  # rows that are counted
#: Words in the name of a column that holds what a model should read.
PROMPT = {
    "context", "contexts", "passage", "passages", "history", "system", "tool", "tools", "functions",
    "image", "images", "audio", "document", "documents", "doc", "docs", "knowledge", "background",
    "evidence", "instruction", "instructions", "input", "inputs", "prompt", "question", "query",
    "messages", "conversation", "conversations", "choices", "options", "hint", "persona", "schema",
}  # fmt: skip
#: Words that make it a column about such a thing.
ABOUT = {
    "id", "ids", "idx", "index", "type", "source", "name", "category", "len", "length", "count", "tokens",
    "score", "rating", "url", "title", "lang", "language", "hash", "model", "time", "date",
}  # fmt: skip


@dataclass(frozen=True)
class SourceSummary:
    """Figures of the first `MOST` rows.

    Attributes:
        rows: rows that give an example.
        prompts: different prompts among them.
        format: of the rows.
        columns: field -> column, of fields that other columns than those of their names hold.
        others: further formats that fit the columns as well.
    """

    rows: int
    prompts: int
    format: str
    columns: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def summarize_source(source: Source, where: str) -> SourceSummary | None:
    """Look a source over; None where its first row has no columns.

    Raises:
        UserError: the columns fit no format, also under the names that such columns often have.
    """
    first = next(_rows(source), None)
    if first is None or not first.values:
        return None
    advice = FormatMatcher(first.values, where, first.origin)
    fitting = [name for name in formats.names() if advice.fits(name)]
    guesses = [] if fitting else [name for name in formats.names() if advice.mapping(name)]
    mapping = advice.mapping(guesses[0]) or {} if guesses else {}
    several = fitting if len(fitting) > 1 else []
    name = next(iter(guesses or several), "auto")  # which refuses what cannot be told
    columns = Columns(name, mapping, first.values, where, first.origin)
    asked = list(_prompts(source, columns))
    return SourceSummary(len(asked), len(set(asked)), columns.name, mapping, tuple(fitting[1:]))


def _rows(source: Source) -> Iterator[Row]:
    return (item for item in islice(source.rows(), MOST) if isinstance(item, Row))


def _prompts(source: Source, columns: Columns) -> Iterator[Any]:
    for row in _rows(source):
        try:
            yield prompt_of(columns.example(row.values))
        except (Unusable, UserError):
            continue


@dataclass
class UnusedColumns:
    """Columns that hold something in the rows that were looked at, and that no field is read from.

    Attributes:
        rows: how many rows were looked at.
        columns: column -> rows in which it holds something.
        asking: of these, the columns that look like a part of the prompt.
    """

    rows: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    asking: list[str] = field(default_factory=list)

    def note(self) -> str:
        """One sentence on the columns that look like a part of the prompt; "" where there are none."""
        if not self.asking:
            return ""
        named = ", ".join(
            f"'{c}' (in {self.columns[c]:,} of the first {self.rows:,} rows)" for c in self.asking
        )
        plural = len(self.asking) > 1
        return (
            f"column{'s' * plural} {named} {'are' if plural else 'is'} not used, though the name "
            "suggests a part of the prompt"
        )


def find_unused_columns(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> UnusedColumns:
    """What no field is read from, in these rows."""
    found = UnusedColumns()
    for row in rows:
        found.rows += 1
        used = columns.used(row)
        read = [_text(row[name]) for name in used]
        for name, value in row.items():
            if name in used or value in (None, "", [], {}):
                continue
            found.columns[name] = found.columns.get(name, 0) + 1
            if (
                name not in found.asking
                and _asks(name)
                and not any(_text(value) in t for t in read)
            ):
                found.asking.append(name)
    return found


def _asks(name: str) -> bool:
    words = set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
    return bool(words & PROMPT) and not words & ABOUT


def _text(value: Any) -> str:
    """A value as it would stand inside another one written as JSON."""
    if isinstance(value, str):
        return json.dumps(value.strip(), ensure_ascii=False)[1:-1]
    return json.dumps(value, ensure_ascii=False, default=str)
