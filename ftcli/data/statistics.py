"""Counts of a prepared split: what became of each source row, token statistics, and warnings.

Every row of a source is counted once: read = used + other_split + the sum of left_out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftcli.data.chat_templates.dropped_content import BY_DESIGN, DROP_KINDS
from ftcli.data.rows import LocatedRowError, Reason

if TYPE_CHECKING:
    from ftcli.data.tokens import TokenizedSplit

SHOWN = 5  # rows that are listed for each reason
SKIPPED = ("broken", "unfit", "empty")  # reasons for which a row gives no example


@dataclass
class RowCounts:
    """Counts of one preparation, as `meta.json` holds them.

    For rows: read = used + other_split + the sum of left_out.
    """

    entries: int = 0  # source rows read
    other_split: int = 0  # of these, rows of another split
    used: int = 0  # rows with at least one document
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> rows
    left_out_rows: dict[str, list[str]] = field(
        default_factory=dict
    )  # the first, with origin and reason
    rows: int = 0  # rows of this split that became an example
    skipped: int = 0  # rows that could not, except those that the data exclude
    overlong: int = 0  # documents longer than max_length
    dropped: int = 0  # of these, left out
    without_labels: int = 0  # documents left out because nothing in them is learned
    partners: int = 0  # documents of pairs left out because the other one was
    dropped_content: dict[str, int] = field(default_factory=dict)  # kind -> documents
    dropped_content_rows: dict[str, list[str]] = field(
        default_factory=dict
    )  # the first of each kind
    supervised: int = 0  # learned tokens
    longest: int = 0  # tokens of the longest document, before it was cut
    longest_row: str = ""  # origin of that document

    def add_row_error(self, row: LocatedRowError) -> None:
        """Count a row that did not become an example, and list it among the first."""
        self.skipped += not row.intended
        self.add_left_out(row.reason, f"{row.where}  {row.what}")

    def add_left_out(self, reason: Reason, place: str) -> None:
        """Count a row that gives no document, and list it among the first."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        named = self.left_out_rows.setdefault(reason, [])
        if len(named) < SHOWN:
            named.append(place)

    def count_dropped_content(self, kinds: Sequence[str], place: str) -> None:
        """Count a document of which the chat template drops content, and list it among the first."""
        for kind in kinds:
            self.dropped_content[kind] = self.dropped_content.get(kind, 0) + 1
            named = self.dropped_content_rows.setdefault(kind, [])
            if len(named) < SHOWN:
                named.append(place)


def merge_metas(metas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of several sources as one: numbers added, lists of rows cut at `SHOWN`.

    The longest document is that of all, and the fingerprint is left out.
    """
    if len(metas) == 1:
        return metas[0]
    merged: dict[str, Any] = {}
    for meta in metas:
        for key, value in meta.items():
            if isinstance(value, int):
                merged[key] = merged.get(key, 0) + value
            elif isinstance(value, dict):
                merged[key] = _merge_counts(merged.get(key, {}), value)
    longest = max(metas, key=lambda meta: int(meta["longest"]))
    return merged | {key: longest[key] for key in ("longest", "longest_row")}


def _merge_counts(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add numbers, or join lists of rows, of the same reason or kind."""
    merged = dict(known)
    for key, value in more.items():
        joined = merged[key] + value if key in merged else value
        merged[key] = joined[:SHOWN] if isinstance(joined, list) else joined
    return merged


def format_counts(meta: Mapping[str, Any]) -> str:
    """Format the counts of rows: "300 rows read: 280 used, 14 of another split, 6 left out (6 empty)"."""
    parts = [f"{meta['used']:,} used"]
    if meta["other_split"]:
        parts.append(f"{meta['other_split']:,} of another split")
    if meta["left_out"]:
        why = ", ".join(f"{count:,} {reason}" for reason, count in meta["left_out"].items())
        parts.append(f"{sum(meta['left_out'].values()):,} left out ({why})")
    return f"{meta['entries']:,} rows read: {', '.join(parts)}"


def compute_statistics(tokenized: TokenizedSplit) -> dict[str, Any]:
    """Return the counts of rows and tokens, lengths, and the fingerprint of a split."""
    lengths = tokenized.lengths
    meta = tokenized.meta
    return {
        "rows": meta["rows"],
        "documents": len(tokenized),
        **{k: meta[k] for k in ("skipped", "overlong", "dropped", "without_labels")},
        "read": meta["entries"],
        **{k: meta[k] for k in ("used", "other_split", "left_out", "left_out_rows")},
        **{k: meta[k] for k in ("dropped_content", "dropped_content_rows")},
        "tokens": meta["tokens"],
        "supervised": meta["supervised"],
        "mean_length": round(float(lengths.mean()), 2) if len(lengths) else 0,
        "max_length": int(lengths.max(initial=0)),
        "longest_row": meta["longest_row"],
        "fingerprint": tokenized.fingerprint,
    }


def list_warnings(meta: dict[str, Any], split: str) -> list[str]:
    """Return one line for each kind of rows that were left out, cut or changed by the template."""
    lines = []
    if meta["skipped"]:
        count = meta["skipped"]
        named = meta["left_out_rows"]
        shown = "; ".join([row for why in SKIPPED for row in named.get(why, ())][:SHOWN])
        lines.append(f"{split}: {count:,} row{'s' * (count > 1)} skipped. First: {shown}")
    if count := meta["left_out"].get("not to learn"):
        lines.append(
            f"{split}: {count:,} row{'s' * (count > 1)} left out, for the data mark them as not to be "
            f"learned.{_name_first(meta, 'not to learn')}"
        )
    if meta["dropped"]:
        lines.append(
            f"{split}: {meta['dropped']:,} documents above data.max_length left out."
            f"{_name_first(meta, 'too long')}"
        )
    elif meta["overlong"]:
        lines.append(
            f"{split}: {meta['overlong']:,} documents cut at data.max_length; the longest has "
            f"{meta['longest']:,} tokens ({meta['longest_row']})."
        )
    if meta["without_labels"]:
        lines.append(
            f"{split}: {meta['without_labels']:,} documents left out: nothing in them is learned "
            "(their answers begin behind data.max_length, or the template hides them)."
            f"{_name_first(meta, 'no labels')}"
        )
    if meta.get("partners"):
        lines.append(
            f"{split}: {meta['partners']:,} more left out with them: the other one of a pair."
        )
    for kind, count in meta["dropped_content"].items():
        lines.append(
            f"{split}: {kind} in {count:,} of {meta['documents']:,} documents: "
            f"{(DROP_KINDS | BY_DESIGN)[kind]}. First: {meta['dropped_content_rows'][kind][0]}"
        )
    return lines


def _name_first(meta: dict[str, Any], reason: str) -> str:
    """Name the first rows that were left out for a reason; "" where none is listed."""
    named = meta["left_out_rows"].get(reason)
    return f" First: {', '.join(named)}" if named else ""
