"""Combinations of options such that every two options of different groups meet in one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, product

#: Group -> option.
Row = dict[str, str]
#: Two choices of different groups.
Pair = frozenset[tuple[str, str]]


def covering(groups: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows of one option a group that hold every pair; greedily few, and the same ones every time.

    In parameter order (Lei and Tai, 1998): all pairs of the two largest groups, then group after
    group, each row given the option that brings the most pairs not seen yet, of those the one used
    least. Pairs that are still missing get rows of their own.
    """
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    first = product(*(groups[name] for name in order[:2]))
    rows = [dict(zip(order, options, strict=False)) for options in first]
    for width in range(3, len(order) + 1):
        known = {name: groups[name] for name in order[:width]}
        missing = _pairs(known).difference(*map(held, rows))
        used: Counter[str] = Counter()
        for row in rows:
            _fill(row, known, missing, used)
        for pair in sorted(missing, key=sorted):
            if pair in missing:
                rows.append(dict(sorted(pair)))
                _fill(rows[-1], known, missing, used)
    return rows


def select_rows(rows: Sequence[Row]) -> list[int]:
    """Places of a few rows that together hold every option; greedily the ones that bring the most."""
    missing, chosen = {option for row in rows for option in row.items()}, list[int]()
    while missing:
        chosen.append(max(range(len(rows)), key=lambda i: len(missing & set(rows[i].items()))))
        missing -= set(rows[chosen[-1]].items())
    return sorted(chosen)


def held(row: Row) -> set[Pair]:
    """The pairs of a row."""
    return {frozenset(pair) for pair in combinations(row.items(), 2)}


def _pairs(groups: Mapping[str, Sequence[str]]) -> set[Pair]:
    """All pairs of options of different groups."""
    return {
        frozenset([(one, a), (other, b)])
        for one, other in combinations(groups, 2)
        for a, b in product(groups[one], groups[other])
    }


def _fill(
    row: Row, groups: Mapping[str, Sequence[str]], missing: set[Pair], used: Counter[str]
) -> None:
    """Choose what a row leaves open, and take its pairs from the missing ones."""
    for group in groups:
        if group not in row:
            gain = {o: len(held(row | {group: o}) & missing) for o in groups[group]}
            row[group] = min(groups[group], key=lambda o: (-gain[o], used[o]))
            used[row[group]] += 1
    missing -= held(row)
