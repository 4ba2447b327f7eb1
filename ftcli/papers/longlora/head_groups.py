"""Shifted sparse attention (LongLoRA, arXiv 2309.12307, section 3.2): each half of the heads attends in segments.

A row of N tokens is cut into groups of G. The first half of the heads attends causally within
[0, G), [G, 2G), ...; the second half within [0, G/2), [G/2, 3G/2), ..., [N - G/2, N), which is the shift by half
a group. Nothing is rolled, so that the first tokens never see the last ones, as they do where a rolled row
is attended with a plain causal mask (the authors' code without flash attention). Each row has groups by its own
length (their code with it takes bounds from the longest row, which fits rows of one length only).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ftcli.models.attention_kernels import AttentionSettings, attend_within
from ftcli.models.attention_layout import Group, group_documents


def compute_group(length: int, ratio: float) -> int:
    """Return the tokens G of a group in a row of `length` tokens, rounded up."""
    return max(1, math.ceil(length * ratio))


def cut_segments(length: int, group: int, shifted: bool) -> list[int]:
    """Return the lengths of the segments of a row, in order; the last has what is left."""
    first = min(group // 2, length) if shifted else 0
    whole, rest = divmod(length - first, group)
    return [n for n in (first, *[group] * whole, rest) if n]


@dataclass(frozen=True)
class HeadGroups:
    """The layout of a packed row in which the halves of the heads attend within segments of their own.

    Attributes:
        halves: segments of all documents, for the first and for the second half of the heads.
    """

    halves: tuple[tuple[Group, ...], tuple[Group, ...]]

    def attend(self, states: Sequence[Tensor], settings: AttentionSettings) -> Tensor:
        """Attend queries, keys and values [T, H, D]; return the output [T, H, D]."""
        half = states[0].shape[1] // 2
        outputs = []
        for heads, groups in zip((slice(half), slice(half, None)), self.halves, strict=True):
            sinks = None if settings.sinks is None else settings.sinks[heads]
            part = [x[:, heads] for x in states]
            if part[0].shape[1]:  # one head has no first half
                outputs.append(attend_within(part, groups, replace(settings, sinks=sinks)))
        return torch.cat(outputs, 1)


def group_heads(
    lengths: Sequence[int], ratio: float, shifted: bool, device: torch.device | str = "cpu"
) -> HeadGroups:
    """Build the layout of a packed row.

    Args:
        lengths: tokens of each document.
        ratio: share of a document that is one group.
        shifted: whether the second half of the heads is shifted by half a group.
    """
    halves = []
    for shift in (False, shifted):
        cut = [cut_segments(n, compute_group(n, ratio), shift) for n in lengths]
        groups = group_documents([n for segments in cut for n in segments])
        halves.append(tuple(group.to(device) for group in groups))
    return HeadGroups((halves[0], halves[1]))


def read_lengths(documents: Sequence[Group]) -> list[int]:
    """Return the tokens of each document of a packed row."""
    lengths: list[int] = []
    for group in documents:
        if group.real is None:
            lengths += [group.length] * group.documents
        else:
            lengths += torch.bincount(group.real.cpu() // group.length).tolist()
    return lengths


def build_mask(real: Tensor, heads: int, ratio: float, shifted: bool) -> Tensor:
    """Return which keys each query attends to in padded rows, bool [B, H, L, L].

    A padded query attends to itself alone, so that its output is finite.

    Args:
        real: which tokens are no padding, bool [B, L].
        heads: number H of query heads.
        ratio, shifted: as in `group_heads`.
    """
    place = real.cumsum(1) - 1
    group = (real.sum(1, keepdim=True).double() * ratio).ceil().long().clamp(min=1)  # [B, 1]
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    allowed = causal & real[:, None] & real[:, :, None]
    masks = []
    for shift in (False, shifted):
        offset = group // 2 if shift else torch.zeros_like(group)
        segment = (place - offset).div(group, rounding_mode="floor")
        masks.append(allowed & (segment[:, None] == segment[:, :, None]))
    half = heads // 2
    both = torch.cat([masks[0][:, None].expand(-1, half, -1, -1),
                      masks[1][:, None].expand(-1, heads - half, -1, -1)], 1)  # fmt: skip
    return both | torch.eye(length, dtype=torch.bool, device=real.device)
