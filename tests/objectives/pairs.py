"""Batches of pairs, and a model whose logits are a parameter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 11


class Logits(nn.Module):
    """Gives its parameter [B, T, V] as logits, whatever it is asked; the output layer does nothing."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())
        self.head = nn.Identity()
        self.config = SimpleNamespace()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, **_: Any) -> Any:
        return self.head(self.values)


def batch_of(lengths: list[tuple[int, int]], seed: int = 0) -> dict[str, Any]:
    """A padded batch of answers with prompts of 2 tokens: row 2 i is preferred to row 2 i + 1."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [size for pair in lengths for size in pair]
    width = 2 + max(sizes) + 1  # and padding for all
    ids = torch.randint(VOCABULARY, (len(sizes), width), generator=generator)
    place = torch.arange(width)
    ends = 2 + torch.tensor(sizes)[:, None]
    answer = (place >= 2) & (place < ends)
    return {
        "input_ids": ids,
        "labels": torch.where(answer, ids, -100),
        "position_ids": place.expand(len(sizes), -1),
        "attention_mask": (place < ends).long(),
        "pairs": len(lengths),
        "indices": list(range(len(sizes))),
        "num_supervised": sum(sizes),
    }


def logits_of(batch: dict[str, Any], seed: int, scale: float = 1.0) -> Tensor:
    """Random logits for a batch."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*batch["input_ids"].shape, VOCABULARY, generator=generator)
