"""Sensitivity: how far each group of parameters moves within a task, and from one task to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ftcli.core.callback import Callback
from ftcli.papers.fpf.groups import Group

WITHIN, ACROSS = "within", "across"


class Sensitivity(Callback):
    """Mean absolute change of an entry over a pass, for every group (Zhao et al. 2023, arXiv 2304.04158).

        s(g) = (1 / |theta_g|) || theta_g(after) - theta_g(before) ||_1

    between the ends of two passes over data: of the same task (`within`), or of the last pass of a
    task and the first of the next (`across`). Both are means over all such pairs of the run.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self.sums = {kind: [0.0] * len(groups) for kind in (WITHIN, ACROSS)}
        self.counts = {kind: 0 for kind in (WITHIN, ACROSS)}
        self.reference = self._copy()

    def record(self, kind: str | None) -> None:
        """Add the change since the last call to the means of `kind`; None: only begin a new change."""
        if kind is not None:
            self.counts[kind] += 1
            for number, (group, before) in enumerate(zip(self.groups, self.reference, strict=True)):
                self.sums[kind][number] += measure_change(before, group.tensors)
        self.reference = self._copy()

    @contextmanager
    def ignore(self) -> Iterator[None]:
        """Leave what moves in the block out of the changes."""
        before = self._copy()
        yield
        for kept, old, group in zip(self.reference, before, self.groups, strict=True):
            for reference, then, now in zip(kept, old, group.tensors, strict=True):
                reference += now.detach() - then

    def mean(self, kind: str) -> list[float]:
        """Return the mean change of each group, in the order of the groups; nan where there was none."""
        count = self.counts[kind]
        return [total / count if count else math.nan for total in self.sums[kind]]

    def rank_groups(self) -> list[Group]:
        """Return the groups from the largest change across tasks to the smallest.

        Before the first change of task, the change within it decides, and before that the order of the model.
        """
        kind = ACROSS if self.counts[ACROSS] else WITHIN
        order = sorted(range(len(self.groups)), key=lambda number: -self.sums[kind][number])
        return [self.groups[number] for number in order]

    def take_top(self, share: float) -> list[Group]:
        """Return this share of the parameters' groups, rounded up, those of the largest change, and all statistics.

        Statistics are not ranked: what a mean of activations moves by is in no unit of a weight.
        """
        ranked = [group for group in self.rank_groups() if not group.is_statistics]
        statistics = [group for group in self.groups if group.is_statistics]
        return ranked[: math.ceil(share * len(ranked))] + statistics

    def describe(self) -> list[dict[str, Any]]:
        """Return name, kind, number of entries and both mean changes of each group."""
        changes = zip(self.mean(WITHIN), self.mean(ACROSS), strict=True)
        return [
            {
                "name": group.name, "kind": group.kind,
                "entries": sum(tensor.numel() for tensor in group.tensors),
                WITHIN: _none_if_nan(within), ACROSS: _none_if_nan(across),
            }
            for group, (within, across) in zip(self.groups, changes, strict=True)
        ]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return sums, counts, and the weights since which the present change counts."""
        return {"sums": self.sums, "counts": self.counts, "reference": self.reference}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.sums, self.counts = saved["sums"], saved["counts"]
        for kept, values in zip(self.reference, saved["reference"], strict=True):
            for tensor, value in zip(kept, values, strict=True):
                tensor.copy_(value)

    def _copy(self) -> list[list[Tensor]]:
        return [[tensor.detach().clone() for tensor in group.tensors] for group in self.groups]


def measure_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the mean absolute difference of the entries of some tensors, all counted alike."""
    pairs = list(zip(before, after, strict=True))
    total = torch.stack([(new.detach() - old).abs().double().sum() for old, new in pairs]).sum()
    return float(total) / sum(old.numel() for old, _ in pairs)


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
