"""Self-attention of a denoiser that is recorded, or takes its keys and values from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError

#: (layer, timestep) -> queries, keys and values, each [B, heads, places, d].
Features = dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]]


@dataclass
class Taps:
    """What the chosen layers do in the denoiser's next call.

    Attributes:
        time: timestep of that call, by which features are stored and found.
        record: take queries, keys and values down here.
        inject: content's queries, style's keys and values, instead of the layer's own.
        gamma: share of the content's query in the query (StyleID, arXiv 2312.09008, equation 6).
        tau: factor of the logits (equation 7).
    """

    time: int = 0
    record: Features | None = None
    inject: Features | None = None
    gamma: float = 0.75
    tau: float = 1.5
    layers: list[str] = field(default_factory=list)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, tau: float = 1.0) -> Tensor:
    """softmax(tau * scale * q k^T) v, written out.

    Args:
        query, key, value: [B, heads, places, d].
        scale: 1 / sqrt(d).
    """
    logits = tau * scale * query @ key.transpose(-1, -2)
    return logits.softmax(-1) @ value


def mixed(content: Tensor, own: Tensor, gamma: float) -> Tensor:
    """The query gamma * q_content + (1 - gamma) * q."""
    return gamma * content + (1 - gamma) * own


class TappedAttention:
    """An attention processor of diffusers that follows `Taps`; without any it computes as before.

    Args:
        name: of the layer in the denoiser.
        taps: shared by all layers.
    """

    def __init__(self, name: str, taps: Taps) -> None:
        self.name, self.taps = name, taps

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        """Attention of [B, places, channels] to itself."""
        taps, place = self.taps, (self.name, self.taps.time)
        layers = (attn.to_q, attn.to_k, attn.to_v)
        query, key, value = (_heads(layer(hidden_states), attn.heads) for layer in layers)
        tau = 1.0
        if taps.record is not None:
            taps.record[place] = (query, key, value)
        if taps.inject is not None:
            content, key, value = taps.inject[place]
            query, tau = mixed(content, query, taps.gamma), taps.tau
        out = attend(query, key, value, attn.scale, tau)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


@contextmanager
def tapped(denoiser: nn.Module, patterns: Sequence[str]) -> Iterator[Taps]:
    """Taps in the self-attention of the layers whose names match, as long as it lasts.

    Fused kernels do not show queries, keys and values, so these layers compute attention step by step.

    Args:
        denoiser: a UNet2DConditionModel of diffusers.
        patterns: of names such as `up_blocks.2.attentions.0.transformer_blocks.0.attn1`.

    Raises:
        UserError: a pattern matches no self-attention.
    """
    found = {name: m for name, m in denoiser.named_modules() if name.endswith(".attn1")}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UserError(
                f"'{pattern}' matches none of {len(found)} self-attention layers "
                f"(they are called like {next(iter(found), 'none')!r}).",
                where="eval.style_transfer.layers",
            )
    chosen: dict[str, Any] = {
        n: m for n, m in found.items() if any(fnmatchcase(n, p) for p in patterns)
    }
    taps = Taps(layers=list(chosen))
    before = {name: module.processor for name, module in chosen.items()}
    for name, module in chosen.items():
        module.set_processor(TappedAttention(name, taps))
    try:
        yield taps
    finally:
        for name, module in chosen.items():
            module.set_processor(before[name])


def pairs(content: Features, style: Features, which: Sequence[tuple[int, int]]) -> Features:
    """Queries of contents with keys and values of styles, for pairs of their numbers."""
    left, right = (torch.tensor([pair[side] for pair in which]) for side in (0, 1))
    return {
        place: (content[place][0][left], style[place][1][right], style[place][2][right])
        for place in content
    }


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Content latents [B, c, h, w] with each channel's mean and deviation of the style's.

    Arithmetic as in equation 8 of StyleID (arXiv 2312.09008); the deviation is that of all places,
    without correction for a sample, on both sides.
    """
    axes = (-2, -1)
    own, theirs = ((x.mean(axes, keepdim=True), _spread(x, axes)) for x in (content, style))
    return theirs[1] * (content - own[0]) / own[1] + theirs[0]


def _spread(x: Tensor, axes: tuple[int, int]) -> Tensor:
    return x.std(axes, correction=0, keepdim=True)


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, places, channels] -> [B, heads, places, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
