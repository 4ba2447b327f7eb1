"""What became of every row of a source: no row is counted twice, and none is missing from the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcli.data.rows import BadRow, Reason

SHOWN = 5  # rows that are named for each reason


@dataclass
class Counts:
    """Of one preparation; kept in `meta.json`.

    Of rows: read = used + elsewhere + the sum of left_out.
    """

    entries: int = 0  # source rows read
    elsewhere: int = 0  # of these, rows of another split
    used: int = 0  # rows with at least one document
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> rows
    left_out_rows: dict[str, list[str]] = field(default_factory=dict)  # the first, place and why
    rows: int = 0  # rows of this split that became an example
    skipped: int = 0  # rows that could not
    overlong: int = 0  # documents longer than max_length
    dropped: int = 0  # of these, left out
    unlearned: int = 0  # documents left out because nothing in them is learned
    partners: int = 0  # documents of pairs left out because the other one was
    losses: dict[str, int] = field(default_factory=dict)  # kind -> documents the template changed
    losses_rows: dict[str, list[str]] = field(default_factory=dict)  # the first of each kind
    supervised: int = 0  # learned tokens
    longest: int = 0  # tokens of the longest document, before it was cut
    longest_row: str = ""  # where it came from

    def skip(self, row: BadRow) -> None:
        """Count and name a row that did not become an example."""
        self.skipped += 1
        self.leave_out(row.reason, f"{row.where}  {row.what}")

    def leave_out(self, reason: Reason, place: str) -> None:
        """Count and name a row that gives no document."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        named = self.left_out_rows.setdefault(reason, [])
        if len(named) < SHOWN:
            named.append(place)

    def lose(self, kinds: Sequence[str], place: str) -> None:
        """Count and name a document that the chat template does not write as the data have it."""
        for kind in kinds:
            self.losses[kind] = self.losses.get(kind, 0) + 1
            named = self.losses_rows.setdefault(kind, [])
            if len(named) < SHOWN:
                named.append(place)


def accounting(meta: Mapping[str, Any]) -> str:
    """The sum for people: "300 rows read: 280 used, 14 of another split, 6 left out (6 empty)"."""
    parts = [f"{meta['used']:,} used"]
    if meta["elsewhere"]:
        parts.append(f"{meta['elsewhere']:,} of another split")
    if meta["left_out"]:
        why = ", ".join(f"{count:,} {reason}" for reason, count in meta["left_out"].items())
        parts.append(f"{sum(meta['left_out'].values()):,} left out ({why})")
    return f"{meta['entries']:,} rows read: {', '.join(parts)}"
