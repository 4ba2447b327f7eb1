"""Self-attention of a denoiser that is recorded, or takes keys and values recorded elsewhere."""

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
    """Settings of the selected layers for the denoiser's next call.

    Attributes:
        time: timestep of that call, the key of features.
        record: where queries, keys and values are stored; None: nowhere.
        inject: content's queries, style's keys and values, in place of those computed.
        gamma: share of the content's query in the query (StyleID, arXiv 2312.09008, equation 6).
        tau: factor of the logits (equation 7).
        layers: names of the selected layers.
    """

    time: int = 0
    record: Features | None = None
    inject: Features | None = None
    gamma: float = 0.75
    tau: float = 1.5
    layers: list[str] = field(default_factory=list)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, tau: float = 1.0) -> Tensor:
    """Return softmax(tau * scale * q k^T) v, without a fused kernel.

    Args:
        query, key, value: [B, heads, places, d].
        scale: 1 / sqrt(d).
    """
    logits = tau * scale * query @ key.transpose(-1, -2)
    return logits.softmax(-1) @ value


def mix_queries(content: Tensor, query: Tensor, gamma: float) -> Tensor:
    """Return gamma * q_content + (1 - gamma) * q (StyleID, arXiv 2312.09008, equation 6)."""
    return gamma * content + (1 - gamma) * query


class TappedAttention:
    """Attention processor of diffusers that records and injects features according to `Taps`.

    Args:
        name: name of the layer in the denoiser.
        taps: shared by all layers.
    """

    def __init__(self, name: str, taps: Taps) -> None:
        self.name, self.taps = name, taps

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        """Compute the self-attention of [B, places, channels]."""
        taps, index = self.taps, (self.name, self.taps.time)
        layers = (attn.to_q, attn.to_k, attn.to_v)
        query, key, value = (_split_heads(layer(hidden_states), attn.heads) for layer in layers)
        tau = 1.0
        if taps.record is not None:
            taps.record[index] = (query, key, value)
        if taps.inject is not None:
            content, key, value = taps.inject[index]
            query, tau = mix_queries(content, query, taps.gamma), taps.tau
        out = attend(query, key, value, attn.scale, tau)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


@contextmanager
def tap_attention(denoiser: nn.Module, patterns: Sequence[str]) -> Iterator[Taps]:
    """Context in which the self-attention layers whose names match follow the `Taps` that it gives.

    Fused kernels do not expose queries, keys and values, so these layers compute attention step by step.

    Args:
        denoiser: a UNet2DConditionModel of diffusers.
        patterns: patterns of names such as `up_blocks.2.attentions.0.transformer_blocks.0.attn1`.

    Raises:
        UserError: a pattern matches no self-attention.
    """
    candidates = {name: m for name, m in denoiser.named_modules() if name.endswith(".attn1")}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in candidates):
            raise UserError(
                f"'{pattern}' matches none of {len(candidates)} self-attention layers "
                f"(with names like {next(iter(candidates), 'none')!r}).",
                where="eval.style_transfer.layers",
            )
    selected: dict[str, Any] = {
        n: m for n, m in candidates.items() if any(fnmatchcase(n, p) for p in patterns)
    }
    taps = Taps(layers=list(selected))
    processors = {name: module.processor for name, module in selected.items()}
    for name, module in selected.items():
        module.set_processor(TappedAttention(name, taps))
    try:
        yield taps
    finally:
        for name, module in selected.items():
            module.set_processor(processors[name])


def pair_features(content: Features, style: Features, which: Sequence[tuple[int, int]]) -> Features:
    """Return queries of contents with keys and values of styles, for pairs (content, style) of indices."""
    left, right = (torch.tensor([pair[side] for pair in which]) for side in (0, 1))
    return {
        place: (content[place][0][left], style[place][1][right], style[place][2][right])
        for place in content
    }


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Return content latents [B, c, h, w] with mean and standard deviation of the style's channels.

    Computed as in equation 8 of StyleID (arXiv 2312.09008); both deviations are over all places, without
    Bessel's correction.
    """
    axes = (-2, -1)
    means = [x.mean(axes, keepdim=True) for x in (content, style)]
    deviations = [_deviation(x, axes) for x in (content, style)]
    return deviations[1] * (content - means[0]) / deviations[0] + means[1]


def _deviation(x: Tensor, axes: tuple[int, int]) -> Tensor:
    return x.std(axes, correction=0, keepdim=True)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, places, channels] -> [B, heads, places, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
