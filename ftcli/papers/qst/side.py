"""A side network: narrow blocks beside the frozen ones, which take the hidden states of each.

    s = Down_1(h_0)
    for i = 1..L:  z_i = sigmoid(gamma_i)
                   s = g_i((1 - z_i) * Down_i(h_i) + z_i * s)
    out = (1 - a) * Up(Norm(s)) + a * Norm_frozen(h_L)

h_i [.., d] is the output of the frozen block i and h_0 the input of the first; s [.., d / r] is the state
of the narrow blocks g_i, which have the same class (QST, arXiv 2401.07159, section 3). Where a is 1 the
output is that of the frozen model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.papers.qst.side_model import BackboneSpec, build_side_model, find_backbone
from ftcli.papers.qst.trace import Trace, find_rotary_modules, get_hidden_states

Downsample = Literal["adapter", "linear", "lora", "maxpool", "avgpool"]
OutputGate = Literal["direct", "sigmoid", "fixed"]


class SideNetwork(nn.Module):
    """The trained part of side tuning.

    Args:
        model: the frozen causal model, for its shapes.
        reduction: r, by which widths are divided.
        downsample: how hidden states are reduced to width d / r.
        rank: inner width of the downsamplers `adapter` and `lora`.
        layer_gate: start of gamma.
        output_gate: initial value of a (`direct`, `fixed`) or of the logit of a (`sigmoid`).
        output_gate_form: `direct` trains a itself, `sigmoid` trains its logit, `fixed` keeps it.

    Raises:
        UserError: widths cannot be divided by r, or the model is not a single stack of blocks with a
            head.
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
        backbone, side_model = find_backbone(model), build_side_model(model, reduction)
        self.config: Any = side_model.config  # blocks read it at run time
        part = side_model.get_submodule(backbone.name)
        blocks: Any = part.get_submodule(backbone.blocks)
        self.blocks = nn.ModuleList(_shift_cache_index(block, len(blocks)) for block in blocks)
        self.norm = _find_last_norm(side_model, backbone)
        self.rotary = nn.ModuleDict(dict(find_rotary_modules(part)))
        base: Any = model.config
        wide, narrow, depth = base.hidden_size, base.hidden_size // reduction, len(self.blocks)
        self.downs = nn.ModuleList(
            _build_downsampler(downsample, wide, narrow, rank) for _ in range(depth)
        )
        self.gates = nn.Parameter(torch.full((depth, narrow), layer_gate))
        self.up = nn.Linear(narrow, backbone.out)
        self.form, self.fixed = output_gate_form, output_gate
        if output_gate_form != "fixed":
            self.alpha = nn.Parameter(torch.full((backbone.out,), output_gate))

    def forward(self, trace: Trace, last: Tensor) -> Tensor:
        """Return the input of the head [B, T, d] that takes the place of `last`.

        Args:
            trace: the pass of the frozen blocks over the same tokens.
            last: the frozen model's states before the head [B, T, d].
        """
        assert trace.start is not None
        state = self.downs[0](self._cast_state(trace.start))
        for i, block in enumerate(self.blocks):
            z = torch.sigmoid(self.gates[i])
            state = (1 - z) * self.downs[i](self._cast_state(trace.outputs[i])) + z * state
            args, kwargs = self._build_arguments(trace, i, state)
            state = get_hidden_states(block(state, *args, **kwargs))
        up, a = self.up(self.norm(state)), self.base_share()
        mixed: Tensor = (1 - a) * up + a * last.detach()
        return mixed.to(last.dtype)

    def base_share(self) -> Tensor | float:
        """Return a [d], the share of the frozen model in the output."""
        if self.form == "fixed":
            return self.fixed
        return torch.sigmoid(self.alpha) if self.form == "sigmoid" else self.alpha

    def _cast_state(self, state: Tensor) -> Tensor:
        return state.detach().to(self.gates.dtype)

    def _build_arguments(
        self, trace: Trace, index: int, state: Tensor
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the frozen block's arguments, with the side network's rotary embeddings and cache."""
        args, kwargs = trace.calls[index]

        def convert(value: Any) -> Any:
            if isinstance(value, Cache):
                return self._extend_cache(value)
            if id(value) in trace.rotary:
                name, positional, named, _ = trace.rotary[id(value)]
                rest = {k: v for k, v in named.items() if not _is_hidden_state(v)}
                return self.rotary[name](state, *positional[1:], **rest)
            return value

        return [convert(v) for v in args], {k: convert(v) for k, v in kwargs.items()}

    def _extend_cache(self, cache: Cache) -> Cache:
        """Return the base's cache, extended by layers for the side network's keys and values.

        Generation then reorders, crops and counts them together with the base's.

        Raises:
            UserError: the cache is no `DynamicCache`, for example one of fixed length.
        """
        if not isinstance(cache, DynamicCache):
            raise UserError(
                f"a side network needs a DynamicCache for its keys and values, not a "
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
    """Maximum or mean of each `size` neighbouring features, without parameters."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.kind, self.size = kind, size

    def forward(self, x: Tensor) -> Tensor:
        """[.., d] -> [.., d / size]."""
        groups = x.unflatten(-1, (-1, self.size))
        return groups.amax(-1) if self.kind == "maxpool" else groups.mean(-1)


def _build_downsampler(kind: Downsample, wide: int, narrow: int, rank: int) -> nn.Module:
    """Return the module [.., wide] -> [.., narrow] of a downsampler.

    Both matrices of a pair are initialised as nn.Linear: a zero matrix would give the block no input.
    """
    if kind == "adapter":
        return Adapter(wide, narrow, rank)
    if kind == "lora":
        inner, outer = nn.Linear(wide, rank, bias=False), nn.Linear(rank, narrow, bias=False)
        return nn.Sequential(inner, outer)
    return nn.Linear(wide, narrow) if kind == "linear" else Pool(kind, wide // narrow)


def _shift_cache_index(block: nn.Module, depth: int) -> nn.Module:
    """Return the block with its index in the key-value cache shifted behind those of the base."""
    for module in block.modules():
        for name in ("layer_idx", "layer_id"):
            index: Any = getattr(module, name, None)
            if isinstance(index, int):
                setattr(module, name, index + depth)
    return block


def _find_last_norm(side_model: nn.Module, backbone: BackboneSpec) -> nn.Module:
    """Return the norm behind the blocks, or the identity for a model without one."""
    inside = f"{backbone.name}.{backbone.blocks}."
    outer = [module for name, module in Anatomy(side_model).norms if not name.startswith(inside)]
    return outer[-1] if outer else nn.Identity()


def _is_hidden_state(value: Any) -> bool:
    """Whether a keyword argument of a rotary module is hidden states, read for type and device only."""
    return isinstance(value, Tensor) and value.is_floating_point()
