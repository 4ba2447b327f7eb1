"""Which entries are trained: those that full finetuning moved most, or random ones (LT-SFT, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ftcli.core.errors import UserError


def select_moved(
    start: Mapping[str, Tensor], trained: Mapping[str, Tensor], count: int
) -> tuple[dict[str, Tensor], float]:
    """Select the entries with the largest |trained - start|, by one threshold for all tensors.

    Entries that tie with the threshold are all selected, as by the authors' code.

    Returns:
        Masks of the selected entries by name, bool like the tensors; and the threshold.

    Raises:
        UserError: there are fewer than `count` entries; or fewer, but not all, have moved at all, so that the
            tie at zero would select every one.
    """
    _refuse_too_many(start, count)
    moves = {name: (trained[name] - tensor).abs() for name, tensor in start.items()}
    every = torch.cat([move.flatten() for move in moves.values()])
    threshold = every.kthvalue(len(every) - count + 1).values.item()
    if threshold == 0 and count < len(every):
        moved = int(every.count_nonzero())
        raise UserError(
            f"{count:,} entries cannot be selected: full finetuning has moved {moved:,} of {len(every):,}.",
            where="pipeline.entries",
            fix=f"pipeline.entries={moved}, or more of pipeline.full_steps",
        )
    return {name: move >= threshold for name, move in moves.items()}, threshold


def select_random(start: Mapping[str, Tensor], count: int, seed: int) -> dict[str, Tensor]:
    """Select exactly `count` entries of all tensors, each set of them equally likely.

    Returns:
        Masks of the selected entries by name, bool like the tensors.

    Raises:
        UserError: there are fewer than `count` entries.
    """
    _refuse_too_many(start, count)
    total = sum(tensor.numel() for tensor in start.values())
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total, generator=generator)[:count]] = True
    parts = chosen.split([tensor.numel() for tensor in start.values()])
    return {
        name: part.view_as(tensor).to(tensor.device)
        for (name, tensor), part in zip(start.items(), parts, strict=True)
    }


def _refuse_too_many(tensors: Mapping[str, Tensor], count: int) -> None:
    total = sum(tensor.numel() for tensor in tensors.values())
    if not 0 < count <= total:
        raise UserError(
            f"{count:,} entries cannot be selected of {total:,}.",
            where="pipeline.entries",
            fix=f"pipeline.entries={max(1, round(total * 0.08))} would be 8 %",
        )
