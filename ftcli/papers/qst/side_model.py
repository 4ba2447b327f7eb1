"""A small model of the same family: every width of a frozen model, divided by one number.

Depth and numbers of heads stay, so that each block of the small model corresponds to one of the large
model and takes the same masks (QST, arXiv 2401.07159, section 3.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.methods.base import model_name
from ftcli.models.anatomy import Anatomy

#: Keys of configurations that hold a width, by the names that families give them.
WIDTHS = (
    "hidden_size", "intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim",
    "ffn_hidden_size", "word_embed_proj_dim", "head_dim", "query_pre_attn_scalar",
)  # fmt: skip
EXACT = ("hidden_size", "word_embed_proj_dim", "head_dim")


@dataclass(frozen=True)
class BackboneSpec:
    """Location of the blocks in a causal model.

    Attributes:
        name: name of the module that holds the blocks, such as "model" or "transformer".
        blocks: name of the list of blocks within that module.
        out: width of the input of the head.
    """

    name: str
    blocks: str
    out: int


def find_backbone(model: nn.Module) -> BackboneSpec:
    """Return where the blocks of a causal model are.

    Raises:
        UserError: the model is not one stack of blocks with a head.
    """
    anatomy = Anatomy(model)
    stacks = anatomy.stacks
    if len(stacks) != 1 or anatomy.head is None:
        raise UserError(
            f"a side network needs a model of one stack of blocks with a head, and "
            f"{model_name(model)} has {', '.join(s.name for s in stacks) or 'no blocks'}.",
            where="method",
            fix="method=lora",
        )
    name, _, blocks = stacks[0].name.rpartition(".")
    head: Any = anatomy.head[1]
    return BackboneSpec(name, blocks, getattr(head, "in_features", getattr(head, "nx", 0)))


def build_side_model(model: Any, reduction: int) -> nn.Module:
    """Return a new model of the same class with fresh float32 weights and every width divided.

    It has one token, because its embedding and head are not used. It is on the CPU, or on the meta
    device if the model is.

    Raises:
        UserError: a width, or that of a head, is not divisible by `reduction`.
    """
    config = _shrink_config(model, reduction)
    meta = next(model.parameters()).device.type == "meta"
    with torch.device("meta" if meta else "cpu"):
        side_model: nn.Module = type(model)(config)
    return side_model


def _shrink_config(model: Any, reduction: int) -> Any:
    config = copy.deepcopy(model.config)
    _refuse_uneven(model, reduction)
    for name in WIDTHS:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, max(1, value // reduction))
    rope = getattr(config, "rope_parameters", None)
    if rope:
        config.rope_parameters = _plain_rope(rope)
    config.vocab_size, config.pad_token_id = 1, None
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _plain_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return rotary parameters without lists of one factor for each pair of the base's channels."""
    if all(isinstance(value, dict) for value in parameters.values()):
        return {layer: _plain_rope(values) for layer, values in parameters.items()}
    if not any(isinstance(value, list) for value in parameters.values()):
        return parameters
    kept = ("rope_theta", "partial_rotary_factor")
    return {k: v for k, v in parameters.items() if k in kept} | {"rope_type": "default"}


def _refuse_uneven(model: Any, reduction: int) -> None:
    config = model.config
    if reduction in _iterate_divisors(config, [reduction]):
        return
    divisors = [*_iterate_divisors(config, range(1, config.hidden_size + 1))]
    heads = config.num_attention_heads
    nearest = max((r for r in divisors if r <= reduction), default=divisors[0])
    raise UserError(
        f"reduction={reduction} does not divide {model_name(model)}: width {config.hidden_size}, "
        f"{heads} heads of {_get_head_width(config)} (rotary positions need an even head). "
        f"These do: {', '.join(map(str, divisors))}.",
        where="method.reduction",
        fix=f"method.reduction={nearest}",
    )


def _iterate_divisors(config: Any, reductions: Iterable[int]) -> Iterator[int]:
    rotary = getattr(config, "rope_parameters", None) is not None
    widths = [v for v in (getattr(config, n, None) for n in EXACT) if isinstance(v, int)]
    for r in reductions:
        divides = all(width % r == 0 for width in [*widths, _get_head_width(config)])
        if divides and not (rotary and (_get_head_width(config) // r) % 2):
            yield r


def _get_head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
