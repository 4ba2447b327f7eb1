"""Columns that nothing reads, and those among them that look like a part of the prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.data.columns import Columns

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


@dataclass
class Unused:
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


def find_unused(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> Unused:
    """What no field is read from, in these rows."""
    found = Unused()
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
