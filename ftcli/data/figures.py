"""Figures of a prepared split, and what the user should be told about them."""

from __future__ import annotations

from typing import Any

from ftcli.data.accounting import SHOWN
from ftcli.data.fidelity import BY_DESIGN, LOSSES
from ftcli.data.tokens import Tokens

SKIPPED = ("broken", "unfit", "empty")  # reasons for which a row gives no example


def statistics(tokens: Tokens) -> dict[str, Any]:
    """Counts of rows and tokens, lengths, and the fingerprint."""
    lengths = tokens.lengths
    meta = tokens.meta
    return {
        "rows": meta["rows"],
        "documents": len(tokens),
        **{k: meta[k] for k in ("skipped", "overlong", "dropped", "unlearned")},
        "read": meta["entries"],
        **{k: meta[k] for k in ("used", "elsewhere", "left_out", "left_out_rows")},
        **{k: meta[k] for k in ("losses", "losses_rows")},
        "tokens": meta["tokens"],
        "supervised": meta["supervised"],
        "mean_length": round(float(lengths.mean()), 2) if len(lengths) else 0,
        "max_length": int(lengths.max(initial=0)),
        "longest_row": meta["longest_row"],
        "fingerprint": tokens.fingerprint,
    }


def warnings(meta: dict[str, Any], split: str) -> list[str]:
    """One line for everything that was left out, cut or may surprise."""
    found = []
    if meta["skipped"]:
        count = meta["skipped"]
        named = meta["left_out_rows"]
        shown = "; ".join([row for why in SKIPPED for row in named.get(why, ())][:SHOWN])
        found.append(f"{split}: {count:,} row{'s' * (count > 1)} skipped. First: {shown}")
    if meta["dropped"]:
        found.append(
            f"{split}: {meta['dropped']:,} documents above data.max_length left out."
            f"{_first(meta, 'too long')}"
        )
    elif meta["overlong"]:
        found.append(
            f"{split}: {meta['overlong']:,} documents cut at data.max_length; the longest has "
            f"{meta['longest']:,} tokens ({meta['longest_row']})."
        )
    if meta["unlearned"]:
        found.append(
            f"{split}: {meta['unlearned']:,} documents left out: nothing in them is learned "
            "(their answers begin behind data.max_length, or the template hides them)."
            f"{_first(meta, 'no labels')}"
        )
    if meta.get("partners"):
        found.append(
            f"{split}: {meta['partners']:,} more left out with them: the other one of a pair."
        )
    for kind, count in meta["losses"].items():
        found.append(
            f"{split}: {kind} in {count:,} of {meta['documents']:,} documents: "
            f"{(LOSSES | BY_DESIGN)[kind]}. First: {meta['losses_rows'][kind][0]}"
        )
    return found


def _first(meta: dict[str, Any], reason: str) -> str:
    """The first rows that were left out for a reason; of a pair it is the other one's that counts."""
    named = meta["left_out_rows"].get(reason)
    return f" First: {', '.join(named)}" if named else ""
