"""Which items are trained on and which are held out, alike on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from ftcli.data.media.items import Item


def rank_text(text: str, seed: int) -> str:
    """A key that puts texts in an order that looks like chance and is always the same."""
    return hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "surrogatepass")).hexdigest()


def select_share(items: Sequence[Item], part: float, seed: int) -> set[str]:
    """Keys of the items that are held out: whole groups, or as many of each class.

    At least one, and never all, wherever there are two.
    """
    return {
        key
        for keys in _shuffle_keys(items, seed)
        for key in keys[: _count_held_out(part, len(keys))]
    }


def select_fold(items: Sequence[Item], number: int, folds: int, seed: int) -> set[str]:
    """Keys of the items of one of `folds` parts: whole groups, or as many of each class.

    Each class goes on dealing where the one before stopped, so that parts differ by one item at most.
    """
    dealt = [key for keys in _shuffle_keys(items, seed) for key in keys]
    return set(dealt[number::folds])


def take_shots(items: Iterable[Item], shots: int, seed: int) -> list[Item]:
    """The first `shots` items of every class in a random order, in the order they came in."""
    items = list(items)
    chosen: set[int] = set()
    for label in sorted({item.label for item in items}):
        rows = [row for row, item in enumerate(items) if item.label == label]
        chosen |= set(sorted(rows, key=lambda row: rank_text(items[row].digest, seed))[:shots])
    return [item for row, item in enumerate(items) if row in chosen]


def item_key(item: Item) -> str:
    """What stays on one side: the group, or the content itself."""
    return f"group:{item.group}" if item.group else item.digest


def _shuffle_keys(items: Sequence[Item], seed: int) -> list[list[str]]:
    """Keys of each class, mixed by the seed; all in one list where they are groups."""
    lists: dict[str, set[str]] = {}
    for item in items:
        lists.setdefault("" if item.group else item.label, set()).add(item_key(item))
    return [
        sorted(keys, key=lambda text: rank_text(text, seed)) for _, keys in sorted(lists.items())
    ]


def _count_held_out(part: float, count: int) -> int:
    return min(max(1, round(part * count)), count - 1)
