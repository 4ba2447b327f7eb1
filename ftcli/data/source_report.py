"""Report on the sources of a split: shares before it is prepared, and their part of `data.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ftcli.data.mixture import Mixture, Share
from ftcli.data.split import Split


def plan_shares(splits: Sequence[Split], mixture: Mixture, held_out: float) -> list[str]:
    """Return one line for each source: about its share of an epoch, by what is known without reading.

    Args:
        held_out: share of the rows that is held out.
    """
    counted = [split.count_rows() for split in splits]
    known = [round(count * (1 - held_out)) for count in counted if count is not None]
    if len(known) == len(splits):
        return [share.describe() for share in mixture.list_shares(known)]
    if mixture.weights is None:
        return [f"{title}: every row once an epoch" for title in mixture.titles]
    total = sum(mixture.weights)
    return [
        f"{title}: {weight / total:.1%} of the rows of an epoch"
        for title, weight in zip(mixture.titles, mixture.weights, strict=True)
    ]


def describe_sources(splits: Sequence[Split], shares: Sequence[Share]) -> dict[str, Any]:
    """Return what `data.json` says of the sources of a split; those of several are under `sources`."""
    described = [split.source.describe() for split in splits]
    if len(splits) == 1:
        return described[0]
    licences = [
        f"{share.title}: {own.get('licence')}" for share, own in zip(shares, described, strict=True)
    ]
    sources = [
        own | asdict(share) | {"passes": round(share.passes, 4)}
        for own, share in zip(described, shares, strict=True)
    ]
    path = " + ".join(share.title for share in shares)
    return {"path": path, "sources": sources, "licence": "\n".join(licences)}
