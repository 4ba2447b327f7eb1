"""A side network: narrow blocks beside the frozen ones, fed by the hidden states of each.

    s = Down_1(h_0)
    for i = 1..L:  z_i = sigmoid(gamma_i)
                   s = g_i((1 - z_i) * Down_i(h_i) + z_i * s)
    out = (1 - a) * Up(Norm(s)) + a * Norm_frozen(h_L)

h_i [.., d] is what the frozen block i puts out and h_0 what goes into the first; s [.., d / r] lives in
narrow blocks g_i of the same class (QST, arXiv 2401.07159, section 3). Where a is 1 the output is that
of the frozen model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.papers.qst.side_model import Trunk, trunk_of, twin_of
from ftcli.papers.qst.trace import Trace, first, rotary_modules

Downsample = Literal["adapter", "linear", "lora", "maxpool", "avgpool"]
OutputGate = Literal["direct", "sigmoid", "fixed"]


class SideNetwork(nn.Module):
    """The trained part of side tuning.

    Args:
        model: the frozen causal model, for its shapes.
        reduction: r, by which widths are divided.
        downsample: how hidden states become narrow.
        rank: inner width of the downsamplers `adapter` and `lora`.
        layer_gate: start of gamma.
        output_gate: start of a (`direct`, `fixed`) or of what a is the sigmoid of (`sigmoid`).
        output_gate_form: `direct` trains a itself, `sigmoid` trains it through a sigmoid, `fixed`
            leaves it where it is.

    Raises:
        UserError: widths cannot be divided by r, or the model is no single stack of decoder blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        reduction: int = 16,
        downsample: Downsample = "adapter",
        rank: int = 16,
        layer_gate: float = 0.5,
        output_gate: float = 1.0,
        output_gate_form: OutputGate = "direct",
    ) -> None:
        super().__init__()
        trunk, twin = trunk_of(model), twin_of(model, reduction)
        self.config: Any = twin.config  # of what the blocks read at run time
        part = twin.get_submodule(trunk.name)
        blocks: Any = part.get_submodule(trunk.blocks)
        self.blocks = nn.ModuleList(_behind(block, len(blocks)) for block in blocks)
        self.norm = _last_norm(twin, trunk)
        self.rotary = nn.ModuleDict(dict(rotary_modules(part)))
        base: Any = model.config
        wide, narrow, depth = base.hidden_size, base.hidden_size // reduction, len(self.blocks)
        self.downs = nn.ModuleList(_down(downsample, wide, narrow, rank) for _ in range(depth))
        self.gates = nn.Parameter(torch.full((depth, narrow), layer_gate))
        self.up = nn.Linear(narrow, trunk.out)
        self.form, self.fixed = output_gate_form, output_gate
        if output_gate_form != "fixed":
            self.alpha = nn.Parameter(torch.full((trunk.out,), output_gate))

    def forward(self, trace: Trace, last: Tensor) -> Tensor:
        """What the head is given in place of `last`.

        Args:
            trace: the pass of the frozen blocks over the same tokens.
            last: the frozen model's states in front of the head [B, T, d].
        """
        assert trace.start is not None
        state = self.downs[0](self._own(trace.start))
        for i, block in enumerate(self.blocks):
            z = torch.sigmoid(self.gates[i])
            state = (1 - z) * self.downs[i](self._own(trace.outputs[i])) + z * state
            args, kwargs = self._arguments(trace, i, state)
            state = first(block(state, *args, **kwargs))
        up, a = self.up(self.norm(state)), self.share()
        mixed: Tensor = (1 - a) * up + a * last.detach()
        return mixed.to(last.dtype)

    def share(self) -> Tensor | float:
        """a [d], the share of the frozen model in the output."""
        if self.form == "fixed":
            return self.fixed
        return torch.sigmoid(self.alpha) if self.form == "sigmoid" else self.alpha

    def _own(self, state: Tensor) -> Tensor:
        return state.detach().to(self.gates.dtype)

    def _arguments(self, trace: Trace, index: int, state: Tensor) -> Any:
        """The frozen block's arguments, with rotary embeddings and a key-value cache of our own."""
        args, kwargs = trace.calls[index]

        def own(value: Any) -> Any:
            if isinstance(value, Cache):
                return self._extended(value)
            if id(value) in trace.rotary:
                name, given, named, _ = trace.rotary[id(value)]
                rest = {k: v for k, v in named.items() if not _is_state(v)}
                return self.rotary[name](state, *given[1:], **rest)
            return value

        return [own(v) for v in args], {k: own(v) for k, v in kwargs.items()}

    def _extended(self, cache: Cache) -> Cache:
        """The base's cache with room for our keys and values behind its own.

        So they are reordered, cropped and counted with the base's by whoever generates.

        Raises:
            UserError: the cache has a length of its own, or another structure.
        """
        if not isinstance(cache, DynamicCache):
            raise UserError(
                f"a side network keeps its keys and values in a cache that grows, not in a "
                f"{type(cache).__name__}.",
                where="method",
                fix="generate with the default cache, or with use_cache=False",
            )
        if len(cache.layers) == len(self.blocks) and cache.layer_class_to_replicate is None:
            cache.layers.extend(DynamicCache(config=self.config).layers)
        return cache


class Adapter(nn.Sequential):
    """d -> k -> d / r with SiLU between and LayerNorm after."""

    def __init__(self, wide: int, narrow: int, rank: int) -> None:
        inner, outer = nn.Linear(wide, rank, bias=False), nn.Linear(rank, narrow, bias=False)
        super().__init__(inner, nn.SiLU(), outer, nn.LayerNorm(narrow))


class Pool(nn.Module):
    """The largest or the mean of each `size` neighbouring features; nothing is trained."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.kind, self.size = kind, size

    def forward(self, x: Tensor) -> Tensor:
        """[.., d] -> [.., d / size]."""
        groups = x.unflatten(-1, (-1, self.size))
        return groups.amax(-1) if self.kind == "maxpool" else groups.mean(-1)


def _down(kind: Downsample, wide: int, narrow: int, rank: int) -> nn.Module:
    """Both matrices of a pair start as nn.Linear does: one at zero would give the block nothing."""
    if kind == "adapter":
        return Adapter(wide, narrow, rank)
    if kind == "lora":
        inner, outer = nn.Linear(wide, rank, bias=False), nn.Linear(rank, narrow, bias=False)
        return nn.Sequential(inner, outer)
    return nn.Linear(wide, narrow) if kind == "linear" else Pool(kind, wide // narrow)


def _behind(block: nn.Module, depth: int) -> nn.Module:
    """The block, with its place in the key-value cache behind those of the base."""
    for module in block.modules():
        for name in ("layer_idx", "layer_id"):
            place: Any = getattr(module, name, None)
            if isinstance(place, int):
                setattr(module, name, place + depth)
    return block


def _last_norm(twin: nn.Module, trunk: Trunk) -> nn.Module:
    """The norm behind the blocks; some models have none."""
    inside = f"{trunk.name}.{trunk.blocks}."
    outer = [module for name, module in Anatomy(twin).norms if not name.startswith(inside)]
    return outer[-1] if outer else nn.Identity()


def _is_state(value: Any) -> bool:
    """Hidden states given to a rotary module by name: it asks them for type and device only."""
    return isinstance(value, Tensor) and value.is_floating_point()
