"""Rows of an epoch that several sources share by weight: a pure function of sizes, seed and epoch.

Each source is an endless stream of its rows, shuffled anew for every pass over them. An epoch takes the
same number of rows from each: a source that has fewer rows than its share repeats, one that has more goes on
in the next epoch where it was. So the numbers of times that any two rows of a source are read differ by at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

STREAM = 2  # seed component that separates the shuffling of passes from other shuffles


@dataclass(frozen=True)
class Mixture:
    """The shares of the sources in an epoch; with one source, every row is read once.

    Attributes:
        titles: name of each source.
        weights: share of each source's rows, relative to the others; None: by their numbers of rows.
        rows_per_epoch: None: as many as all sources have.
    """

    titles: tuple[str, ...] = ("data",)
    weights: tuple[float, ...] | None = None
    rows_per_epoch: int | None = None

    def count_drawn(self, sizes: Sequence[int]) -> list[int]:
        """Return how many rows an epoch takes from each source, given their numbers of rows.

        Rounded by largest remainder, so that they add up to the total.
        """
        total = sum(sizes) if self.rows_per_epoch is None else self.rows_per_epoch
        weights = np.asarray(sizes if self.weights is None else self.weights, dtype=np.float64)
        exact = total * weights / weights.sum()
        drawn = np.floor(exact).astype(np.int64)
        largest = np.argsort(drawn - exact, kind="stable")[: total - int(drawn.sum())]
        drawn[largest] += 1
        return [int(count) for count in drawn]

    def list_shares(
        self, sizes: Sequence[int], supervised: Sequence[int] | None = None
    ) -> list[Share]:
        """Return what each source gives to an epoch.

        Args:
            sizes: rows of each source.
            supervised: learned tokens of each source; None: not counted.
        """
        drawn, of = self.count_drawn(sizes), sum(self.count_drawn(sizes))
        shares = [Share(*args, of) for args in zip(self.titles, sizes, drawn, strict=True)]
        if supervised is None:
            return shares
        learned = [share.passes * n for share, n in zip(shares, supervised, strict=True)]
        return [
            replace(share, learned=tokens / max(sum(learned), 1))
            for share, tokens in zip(shares, learned, strict=True)
        ]

    def draw_rows(self, sizes: Sequence[int], seed: int, epoch: int) -> np.ndarray:
        """Return the row numbers of an epoch, source after source; rows count through all sources."""
        first, parts = 0, []
        for source, (size, count) in enumerate(zip(sizes, self.count_drawn(sizes), strict=True)):
            whole = count == size  # no pass is cut, so that its order does not matter
            rows = np.arange(size) if whole else _take_rows(size, count, seed, epoch, source)
            parts.append(first + rows)
            first += size
        return np.concatenate(parts)


def interleave_rows(sizes: Sequence[int]) -> np.ndarray:
    """Return every row once, those of each source in their order, spread evenly over the whole.

    So the first rows of a split, at which an evaluation may stop, are of all its sources.
    """
    places = [(np.arange(size) + 0.5) / size for size in sizes if size]
    return np.argsort(np.concatenate(places), kind="stable") if places else np.zeros(0, np.int64)


def _take_rows(size: int, count: int, seed: int, epoch: int, source: int) -> np.ndarray:
    """Return rows epoch * count to (epoch + 1) * count of the endless stream of a source."""
    start, end = epoch * count, (epoch + 1) * count
    passes = range(start // size, -(-end // size))
    stream = [np.random.default_rng([seed, n, source, STREAM]).permutation(size) for n in passes]
    offset = start - passes.start * size if count else 0
    return np.concatenate([np.zeros(0, dtype=np.int64), *stream])[offset : offset + count]


@dataclass(frozen=True)
class Share:
    """The rows that one source gives to an epoch.

    Attributes:
        rows: rows that it has.
        drawn: rows of it in an epoch, repeated ones counted again.
        of: rows of an epoch of all sources.
        learned: share of the learned tokens of an epoch, on average; None before they are counted.
    """

    title: str
    rows: int
    drawn: int
    of: int
    learned: float | None = None

    @property
    def passes(self) -> float:
        """Number of times that each row is read in an epoch, on average."""
        return self.drawn / self.rows if self.rows else 0.0

    def describe(self) -> str:
        """Return one line: shares, rows, and what repeats or waits."""
        tokens = "" if self.learned is None else f", {self.learned:.1%} of the learned tokens"
        about = "about " if self.learned is None else ""
        text = (
            f"{self.title}: {about}{self.drawn:,} rows an epoch ({self.drawn / max(1, self.of):.1%}"
        )
        text += f"{tokens}) of {self.rows:,}"
        if self.drawn > self.rows:
            return f"{text}, each read {self.passes:.3g} times"
        return text + (", the others in later epochs" if self.drawn < self.rows else "")
