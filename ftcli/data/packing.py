"""Assign rows to batches: one pure function for each way of packing."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

WINDOW = 8192  # rows that are packed together; keeps best-fit near linear in the number of rows
BUCKET = 20  # batches whose rows are sorted by length before they are cut

Batches = list[list[int]]


def order_rows(rows: np.ndarray, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """Return the rows of an epoch in its order."""
    if not shuffle:
        return rows
    return rows[np.random.default_rng([seed, epoch]).permutation(len(rows))]


def pack_flat(
    rows: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int, epoch: int, shuffle: bool
) -> Batches:
    """Make batches of `batch_size` documents, the longest first.

    Args:
        rows: numbers of the rows of the epoch, as for all ways of packing.
        lengths: of all rows.
    """
    rows = order_rows(rows, seed, epoch, shuffle)
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if shuffle:
        batches = [batch[np.argsort(-lengths[batch], kind="stable")] for batch in batches]
    return [batch.tolist() for batch in batches]


def pack_bins(
    rows: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    capacity: int,
) -> Batches:
    """Make batches of `batch_size` bins of at most `capacity` tokens.

    Rows are assigned to windows by the seed alone, so that epochs of the same rows have the same number
    of bins. Which rows of equal length share a bin, and the order of the bins, change with the epoch.
    """
    dealt = order_rows(rows, seed, 0, shuffle)
    filled: Batches = []
    for window, start in enumerate(range(0, len(dealt), WINDOW)):
        inside = dealt[start : start + WINDOW]
        if shuffle:
            inside = np.random.default_rng([seed, epoch, window]).permutation(np.sort(inside))
        filled += pack_best_fit(inside, lengths, capacity)
    turn = order_rows(np.arange(len(filled)), seed, epoch, shuffle)
    groups = [turn[i : i + batch_size] for i in range(0, len(turn), batch_size)]
    return [[row for number in group for row in filled[number]] for group in groups]


def pack_best_fit(rows: np.ndarray, lengths: np.ndarray, capacity: int) -> Batches:
    """Pack rows by best-fit decreasing: each row into the fullest bin that still has room for it."""
    filled: Batches = []
    rooms: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for row in rows[np.argsort(-lengths[rows], kind="stable")].tolist():
        length = int(lengths[row])
        place = bisect_left(rooms, (length, -1))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = capacity, len(filled)
            filled.append([])
        filled[number].append(row)
        if room > length:
            insort(rooms, (room - length, number))
    return filled


def batch_by_length(
    rows: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int, epoch: int, shuffle: bool
) -> Batches:
    """Make batches of rows of similar length, for padding; rows are sorted in buckets of 20 batches."""
    rows = order_rows(rows, seed, epoch, shuffle)
    batches: Batches = []
    for start in range(0, len(rows), batch_size * BUCKET):
        bucket = rows[start : start + batch_size * BUCKET]
        bucket = bucket[np.argsort(-lengths[bucket], kind="stable")]
        batches += [bucket[i : i + batch_size].tolist() for i in range(0, len(bucket), batch_size)]
    turn = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
    return [batches[i] for i in turn] if shuffle else batches


def share_batches(batches: Sequence[list[int]], rank: int, world: int) -> Batches:
    """Return the batches of one of `world` processes, the same number for each.

    An incomplete last group is left out, so that no process waits for another; its rows return in the
    next epoch's order.
    """
    whole = len(batches) - len(batches) % world
    return [list(batch) for batch in batches[rank:whole:world]]
