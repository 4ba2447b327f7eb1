"""Combinations of options such that every two options of different groups meet in one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product

#: Group -> option.
Row = dict[str, str]
#: Two choices of different groups.
Pair = frozenset[tuple[str, str]]


def covering(groups: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows of one option a group that hold every pair; greedily few, and the same ones every time.

    In parameter order (Lei and Tai, 1998): all pairs of the two largest groups, then group after
    group, each row given the option that brings the most pairs not seen yet. Pairs that are still
    missing get rows of their own.
    """
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    rows = [
        dict(zip(order, options, strict=False))
        for options in product(*(groups[n] for n in order[:2]))
    ]
    for width in range(3, len(order) + 1):
        group, missing = order[width - 1], _pairs({n: groups[n] for n in order[:width]})
        for row in rows:
            missing -= held(row)
        for row in rows:
            row[group] = max(groups[group], key=lambda o: len(held(row | {group: o}) & missing))
            missing -= held(row)
        rows += _rows_for(missing, groups, order[:width])
    return rows


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


def _rows_for(
    missing: set[Pair], groups: Mapping[str, Sequence[str]], order: list[str]
) -> list[Row]:
    """Rows that hold the missing pairs; what a pair leaves open is chosen to hold another."""
    rows = []
    for pair in sorted(missing, key=sorted):
        if pair not in missing:
            continue
        row = dict(sorted(pair))
        for group in order:
            if group not in row:
                row[group] = max(groups[group], key=lambda o: len(held(row | {group: o}) & missing))
        missing -= held(row)
        rows.append(row)
    return rows
