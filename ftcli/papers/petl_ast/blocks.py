"""Adapter networks for sublayers: a bottleneck, or the convolution module of a Conformer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import gelu, glu, pad, silu

Start = Literal["zero_up", "zero_both", "random"]


class Bottleneck(nn.Module):
    """U gelu(D x), D: h -> b, U: b -> h, both with bias (Houlsby et al., arXiv 1902.00751).

    Args:
        width: h.
        narrow: b.
        start: zero_up: U is 0 and D random. zero_both: neither matrix ever gets a gradient, because
            gelu(0) = 0 and U = 0, so that only the bias of U is trained. random: both as nn.Linear.
    """

    def __init__(self, width: int, narrow: int, start: Start = "zero_up") -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        if start == "zero_both":
            _zero(self.down)
        if start != "random":
            _zero(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, h] to [B, T, h]."""
        out: Tensor = self.up(gelu(self.down(x)))
        return out


class Conformer(nn.Module):
    """The convolution module of a Conformer (arXiv 2005.08100, section 2.2), made narrow (arXiv 2312.03694).

    LayerNorm, pointwise h -> 2b, GLU, depthwise convolution over tokens, BatchNorm, SiLU, pointwise
    b -> h, dropout. Padding frames count in the batch statistics. Patches of a spectrogram are
    ordered row by row, so that the kernel reaches from the end of one frequency row into the next.

    Args:
        width: h.
        narrow: b.
        kernel: tokens that the convolution sees, odd.
        dropout: share of the output that is dropped in training.
        start: zero_up: the last layer is 0; random: as the layers are initialised.
        causal: whether only earlier tokens are seen, for decoders.
    """

    def __init__(
        self,
        width: int,
        narrow: int,
        kernel: int = 31,
        dropout: float = 0.0,
        start: Start = "zero_up",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, 2 * narrow)
        self.depthwise = nn.Conv1d(narrow, narrow, kernel, groups=narrow)
        self.batch_norm = nn.BatchNorm1d(narrow)
        self.up = nn.Linear(narrow, width)
        self.dropout = nn.Dropout(dropout)
        self.around = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        if start != "random":
            _zero(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, h] to [B, T, h]."""
        gated = glu(self.down(self.norm(x)), dim=-1).transpose(1, 2)
        mixed = silu(self.batch_norm(self.depthwise(pad(gated, self.around))))
        out: Tensor = self.dropout(self.up(mixed.transpose(1, 2)))
        return out


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
