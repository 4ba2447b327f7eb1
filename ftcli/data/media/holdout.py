"""Select the items that are held out, as a function of content and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from ftcli.data.media.items import Item


def rank_text(text: str, seed: int) -> str:
    """Sort key that puts texts into a pseudo-random order, the same on every machine."""
    return hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "surrogatepass")).hexdigest()


def select_share(items: Sequence[Item], part: float, seed: int) -> set[str]:
    """Keys of the held-out items: whole groups, or the same share of each class.

    At least one and never all of a class that has two.
    """
    return {
        key
        for keys in _shuffle_keys(items, seed)
        for key in keys[: _count_held_out(part, len(keys))]
    }


def select_fold(items: Sequence[Item], number: int, folds: int, seed: int) -> set[str]:
    """Keys of the items of one of `folds` folds: whole groups, or stratified by class.

    The classes are dealt to the folds one after the other, so that folds differ by one item at most.
    """
    dealt = [key for keys in _shuffle_keys(items, seed) for key in keys]
    return set(dealt[number::folds])


def take_shots(items: Iterable[Item], shots: int, seed: int) -> list[Item]:
    """Select `shots` random items of every class; they keep their order."""
    items = list(items)
    chosen: set[int] = set()
    for label in sorted({item.label for item in items}):
        rows = [row for row, item in enumerate(items) if item.label == label]
        chosen |= set(sorted(rows, key=lambda row: rank_text(items[row].digest, seed))[:shots])
    return [item for row, item in enumerate(items) if row in chosen]


def item_key(item: Item) -> str:
    """Key whose items stay in one split: the group, or else the content hash."""
    return f"group:{item.group}" if item.group else item.digest


def _shuffle_keys(items: Sequence[Item], seed: int) -> list[list[str]]:
    """Return the keys of each class, shuffled by the seed; groups are in one list."""
    lists: dict[str, set[str]] = {}
    for item in items:
        lists.setdefault("" if item.group else item.label, set()).add(item_key(item))
    return [
        sorted(keys, key=lambda text: rank_text(text, seed)) for _, keys in sorted(lists.items())
    ]


def _count_held_out(part: float, count: int) -> int:
    return min(max(1, round(part * count)), count - 1)
