"""The layout of a packed row: documents of like length in groups, and the model inputs that carry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from ftcli.models.attention_kernels import SharedPromptLayout

#: Rows are padded to a multiple of this many tokens. Kernels are compiled (and kept) for each new shape: in
#: bf16 on a CPU, free lengths were measured to cost 10 % of the time and, in 60 steps, 500 MB.
ALIGNMENT = 64


@dataclass(frozen=True)
class Group:
    """Neighbouring documents of similar length that attend in one call, padded to the longest.

    Attributes:
        tokens: number of tokens of all documents, t.
        documents: their number n.
        length: tokens of the longest.
        real: indices [t] of their tokens in the padded [n * length]; None where none is padded.
    """

    tokens: int
    documents: int
    length: int
    real: Tensor | None

    def to(self, device: torch.device | str) -> Group:
        """Return the group with its tensor on a device."""
        return self if self.real is None else replace(self, real=self.real.to(device))


def group_documents(lengths: Sequence[int]) -> tuple[Group, ...]:
    """Group the documents of a packed row, in order.

    A call costs about as much as a dozen tokens, so documents within an eighth of each other (and
    8 tokens) share one; padding exists inside attention only, and no token attends to it.
    """
    runs: list[list[int]] = []
    for length in lengths:
        low, high = (min(*runs[-1], length), max(*runs[-1], length)) if runs else (0, 0)
        if runs and high <= low + low // 8 + 8:
            runs[-1].append(length)
        else:
            runs.append([length])
    groups = []
    for run in runs:
        longest, real = max(run), None
        if min(run) < longest:
            real = torch.cat([torch.arange(n) + i * longest for i, n in enumerate(run)])
        groups.append(Group(sum(run), len(run), longest, real))
    return tuple(groups)


def pack_inputs(batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the model inputs of a packed batch, in which no document attends to another.

    transformers passes a mask with four dimensions on unchanged. A 1x1x1x1 mask marks the batch as packed:
    attention raises if it gets this mask without `documents`. The row is padded to a multiple of
    `ALIGNMENT` by a last document without labels.
    """
    lengths = batch["lengths"].tolist()
    spare = -sum(lengths) % ALIGNMENT
    reset = batch.get("document_isolation") == "reset_state"
    return {
        "input_ids": pad(batch["input_ids"], (0, spare)),
        "position_ids": pad(batch["position_ids"], (0, spare)),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "documents": _build_layout(batch, lengths, spare, device),
        **(_bounds([*lengths, spare] if spare else lengths, device) if reset else {}),
    }


def _bounds(lengths: Sequence[int], device: torch.device | str) -> dict[str, Any]:
    """Return indices and bounds of documents under the keywords of the library's recurrent layers."""
    sizes = torch.tensor(lengths, device=device)
    bounds = pad(sizes.cumsum(0), (1, 0)).int()
    return {
        "seq_idx": torch.repeat_interleave(sizes)[None].int(),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def _build_layout(
    batch: dict[str, Any], lengths: list[int], spare: int, device: torch.device | str
) -> tuple[Group, ...] | SharedPromptLayout:
    """Return the layout; with `shared` in the batch, answers attend to a prompt they share."""
    if "shared" not in batch:
        groups = group_documents([*lengths, spare] if spare else lengths)
        return tuple(group.to(device) for group in groups)
    from ftcli.models.shared_prompts import group_shared_prompts

    each = batch["shared"].tolist()
    return group_shared_prompts(lengths[: len(each)], lengths[len(each) :], each, spare, device)


def pad_group(x: Tensor, group: Group) -> Tensor:
    """Pad the tokens of a group: [t, H, D] -> [n, H, L, D]."""
    if group.real is not None:
        empty = x.new_zeros(group.documents * group.length, *x.shape[1:])
        x = empty.index_copy(0, group.real, x)
    return x.unflatten(0, (group.documents, group.length)).transpose(1, 2)


def unpad_group(x: Tensor, group: Group) -> Tensor:
    """Remove the padding of a group: [n, H, L, D] -> [t, H, D]."""
    x = x.transpose(1, 2).flatten(0, 1)
    return x if group.real is None else x.index_select(0, group.real)
