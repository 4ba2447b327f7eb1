"""Batches of a split, in an order that is a pure function of lengths, sources, seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data import packing as packings
from ftcli.data.mixture import interleave_rows
from ftcli.data.tokens import IGNORED, TokenizedSplit

Packing = Literal["flat", "bins", "none"]


class Loader:
    """Batches of one split for one process.

    Args:
        prepared: the prepared split.
        batch_size: documents (flat, none) or bins of `max_length` tokens (bins) a batch.
        packing: flat lays documents end to end; bins fills bins of `max_length` tokens first;
            none pads rows of similar length.
        max_length: capacity of a bin in tokens.
        pad: id that fills padded batches.
        seed: seed of the order, which is a function of seed, epoch, lengths and sources alone.
        shuffle: false takes every row once, in their order; see `interleave_rows` for several sources.
        document_isolation: see `ftcli.core.batch_layout.BatchLayout`; put into the batch unless it is `attention`.
        group: number of neighbouring documents that are one row (2 for pairs). They stay adjacent in
            a batch, and `batch_size` and packing count them as one.
        rank: number of this process among `world`. Every process gets the same number of batches; the
            last incomplete group of batches is left out.
    """

    def __init__(
        self,
        prepared: TokenizedSplit,
        batch_size: int,
        packing: Packing = "flat",
        max_length: int = 1024,
        pad: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        group: int = 1,
        document_isolation: str = "attention",
    ) -> None:
        self.prepared, self.batch_size, self.packing = prepared, batch_size, packing
        self.max_length, self.pad, self.group = max_length, pad, group
        self.seed, self.shuffle, self.rank, self.world = seed, shuffle, rank, world
        self.document_isolation = document_isolation
        self._epoch_batches = lru_cache(maxsize=2)(self._order_batches)
        if world > 1 and not len(self):
            raise UserError(
                f"{len(self._epoch_batches(0))} batches are not enough for {world} processes.",
                where="trainer.batch_size",
                fix="lower trainer.batch_size or use fewer processes",
            )

    def __len__(self) -> int:
        """Number of batches of the first epoch for this process.

        Every epoch has the same number, except with bins of mixed sources, whose rows differ between epochs.
        """
        return len(self._epoch_batches(0)) // self.world

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.batch(indices) for indices in self.list_batch_indices(0))

    def list_batch_indices(self, epoch: int) -> list[list[int]]:
        """Return the indices of the documents in each batch of an epoch."""
        return packings.share_batches(self._epoch_batches(epoch), self.rank, self.world)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the tensors of the documents with these indices; see `collate_packed`, `collate_padded`.

        A batch has `document_isolation` unless that is `attention`; see `ftcli.core.batch_layout.BatchLayout`. A batch of
        pairs has `pairs`, their number: document 2 i of the batch is preferred to document 2 i + 1.
        Where there are several sources, `sources` is the number of each document's, int64 [documents].
        """
        if self.packing == "none":
            batch = collate_padded(self.prepared, indices, self.pad)
        else:
            batch = collate_packed(self.prepared, indices)
        if self.document_isolation != "attention":
            batch["document_isolation"] = self.document_isolation
        if len(self._sizes) > 1:
            import torch

            batch["sources"] = torch.from_numpy(self.prepared.find_sources(indices))
        return batch if self.group == 1 else batch | {"pairs": len(indices) // self.group}

    def _order_batches(self, epoch: int) -> packings.Batches:
        lengths = self.prepared.lengths.reshape(-1, self.group)
        lengths = lengths.max(1) if self.packing == "none" else lengths.sum(1)
        rows = self._choose_rows(len(lengths), epoch)
        args = (rows, lengths, self.batch_size, self.seed, epoch, self.shuffle)
        if self.packing == "bins":
            batches = packings.pack_bins(*args, capacity=self.max_length)
        else:
            batches = (
                packings.pack_flat(*args)
                if self.packing == "flat"
                else packings.batch_by_length(*args)
            )
        if self.group == 1:
            return batches
        members = range(self.group)
        return [[self.group * row + i for row in batch for i in members] for batch in batches]

    def _choose_rows(self, count: int, epoch: int) -> np.ndarray:
        """Return the numbers of the rows of an epoch, before they are shuffled."""
        sizes = [size // self.group for size in self._sizes]
        if not sizes:
            return np.arange(count)
        if not self.shuffle:
            return interleave_rows(sizes)
        return self.prepared.mixture.draw_rows(sizes, self.seed, epoch)

    @property
    def _sizes(self) -> list[int]:
        """Documents of each source; empty for images, which have one source."""
        return getattr(self.prepared, "sizes", [])


def count_steps(batches: int, epochs: float | None, accumulation: int) -> int:
    """Return the optimizer steps of `epochs` passes (None: one) over `batches` micro-batches.

    Gradient accumulation never crosses an epoch boundary: the last step of a pass has the batches that are left.
    """
    whole, part = divmod(epochs or 1.0, 1)
    rest = round(part * batches / accumulation, 6)  # 0.1 of 1.1 passes is a little more than 0.1
    return int(whole) * math.ceil(batches / accumulation) + math.ceil(rest)


def collate_packed(prepared: TokenizedSplit, indices: Sequence[int]) -> dict[str, Any]:
    """Concatenate documents into one row of T tokens.

    Returns:
        input_ids, labels, position_ids int64 [1, T]; lengths int32 [documents];
        indices of the documents;
        num_supervised, the number of label tokens.
        Positions begin at 0 in each document; labels are not shifted.
    """
    import torch

    ids, loss_mask, lengths = _gather(prepared, indices)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids), dtype=np.int64) - np.repeat(starts, lengths)
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int64)[None]),
        "labels": torch.from_numpy(np.where(loss_mask, ids, np.int64(IGNORED))[None]),
        "position_ids": torch.from_numpy(positions[None]),
        "lengths": torch.from_numpy(lengths.astype(np.int32)),
        "indices": list(indices),
        "num_supervised": int(loss_mask.sum(dtype=np.int64)),
    }


def collate_padded(prepared: TokenizedSplit, indices: Sequence[int], pad: int) -> dict[str, Any]:
    """Pad documents on the right to the length L of the longest.

    Returns:
        input_ids, labels, position_ids, attention_mask int64 [B, L]; indices of the documents; num_supervised, the number of label
        tokens.
    """
    import torch

    ids, loss_mask, lengths = _gather(prepared, indices)
    width = int(lengths.max())
    real_token_mask = np.arange(width) < lengths[:, None]
    input_ids = np.full(real_token_mask.shape, pad, dtype=np.int64)
    input_ids[real_token_mask] = ids
    labels = np.full(real_token_mask.shape, IGNORED, dtype=np.int64)
    labels[real_token_mask] = np.where(loss_mask, ids, np.int64(IGNORED))
    positions = np.broadcast_to(np.arange(width, dtype=np.int64), real_token_mask.shape)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(np.where(real_token_mask, positions, 0)),
        "attention_mask": torch.from_numpy(real_token_mask.astype(np.int64)),
        "indices": list(indices),
        "num_supervised": int(loss_mask.sum(dtype=np.int64)),
    }


def _gather(
    prepared: TokenizedSplit, indices: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [T], loss_mask bool [T] and lengths [documents] of documents, one after the other."""
    spans = [slice(prepared.offsets[index], prepared.offsets[index + 1]) for index in indices]
    ids = np.concatenate([prepared.ids[span] for span in spans])
    loss_mask = np.concatenate([prepared.loss_mask[span] for span in spans]).astype(bool)
    return ids, loss_mask, prepared.lengths[np.asarray(indices, dtype=np.int64)]
