"""Documents into the tensors of a batch; whole arrays at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ftcli.data.tokens import IGNORED, Tokens


def packed(tokens: Tokens, rows: Sequence[int]) -> dict[str, Any]:
    """Documents laid end to end, T tokens in all.

    Returns:
        input_ids, labels, position_ids int64 [1, T]; lengths int32 [documents]; rows; count.
        Positions begin at 0 in each document; labels are not shifted.
    """
    ids, learned, lengths = _gather(tokens, rows)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids), dtype=np.int64) - np.repeat(starts, lengths)
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int64)[None]),
        "labels": torch.from_numpy(np.where(learned, ids, np.int64(IGNORED))[None]),
        "position_ids": torch.from_numpy(positions[None]),
        "lengths": torch.from_numpy(lengths.astype(np.int32)),
        "rows": list(rows),
        "count": int(learned.sum(dtype=np.int64)),
    }


def padded(tokens: Tokens, rows: Sequence[int], pad: int) -> dict[str, Any]:
    """Documents side by side, padded on the right to the longest of them, L tokens.

    Returns:
        input_ids, labels, position_ids, attention_mask int64 [B, L]; rows; count.
    """
    ids, learned, lengths = _gather(tokens, rows)
    width = int(lengths.max())
    there = np.arange(width) < lengths[:, None]
    input_ids = np.full(there.shape, pad, dtype=np.int64)
    input_ids[there] = ids
    labels = np.full(there.shape, IGNORED, dtype=np.int64)
    labels[there] = np.where(learned, ids, np.int64(IGNORED))
    positions = np.broadcast_to(np.arange(width, dtype=np.int64), there.shape)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(np.where(there, positions, 0)),
        "attention_mask": torch.from_numpy(there.astype(np.int64)),
        "rows": list(rows),
        "count": int(learned.sum(dtype=np.int64)),
    }


def _gather(tokens: Tokens, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [T], learned bool [T] and lengths [documents] of the rows, one after the other."""
    spans = [slice(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows]
    ids = np.concatenate([tokens.ids[span] for span in spans])
    learned = np.concatenate([tokens.learned[span] for span in spans]).astype(bool)
    return ids, learned, tokens.lengths[np.asarray(rows, dtype=np.int64)]
