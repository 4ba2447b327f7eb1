"""A causal model whose attention is in shifted groups while it trains, and full elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.longlora.head_groups import build_mask, group_heads, read_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class ShortGroupsSource(CausalLMSource):
    """Loads a causal language model that trains with attention in groups (LongLoRA, arXiv 2309.12307, section 3.2).

    Evaluation and generation use full attention, so the result is an ordinary model.
    """

    groups: Literal["shifted", "plain", "none"] = (
        "shifted"  # in training: half of the heads shifted by half a group, none of them, or full attention
    )
    group_ratio: float = 0.25  # share of a row that is one group

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.group_ratio <= 1:
            raise UserError(
                f"a group cannot be {self.group_ratio} of a row.",
                where="model.group_ratio",
                fix="model.group_ratio=0.25",
            )

    def load(self, device: str | None = None) -> PreTrainedModel:
        """Load the model, and make it attend in groups whenever it is in training mode.

        Raises:
            UserError: as `CausalLMSource.load`; or a layer's attention is not full.
        """
        model = super().load(device)
        if self.groups != "none":
            _refuse_other_attention(model, self)
            groups = partial(_use_groups, shifted=self.groups == "shifted", ratio=self.group_ratio)
            # PEFT calls the model's own `forward`, past its hooks, but the backbone's by a call
            backbone = model.get_submodule(model.base_model_prefix)
            backbone.register_forward_pre_hook(groups, with_kwargs=True)
        return model


def _use_groups(
    backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shifted: bool, ratio: float
) -> Inputs | None:
    """Put the layout, or the mask of padded rows, of groups into the arguments of a training pass."""
    if not backbone.training:
        return None
    documents, device = kwargs.get("documents"), next(backbone.parameters()).device
    if documents is None:
        mask = build_mask(_find_real(args, kwargs), _count_heads(backbone), ratio, shifted)
        return args, {**kwargs, "attention_mask": _fit_mask(mask, backbone)}
    if not isinstance(documents, tuple):
        raise UserError(
            "groups of attention are for rows of documents, and answers here share a prompt.",
            where="model.groups",
            fix="model.groups=none",
        )
    return args, {
        **kwargs,
        "documents": group_heads(read_lengths(documents), ratio, shifted, device),
    }


def _find_real(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return which tokens of padded rows are no padding, bool [B, L]."""
    mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids")
    if ids is None:
        ids = args[0] if args else kwargs["inputs_embeds"][..., 0]
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.dim() != 2 or mask.shape[1] != ids.shape[1]:
        raise UserError(
            "groups of attention need whole rows in training: no cache, no mask of four dimensions.",
            where="model.groups",
            fix="model.groups=none",
        )
    real: Tensor = mask.bool()
    return real


def _count_heads(backbone: Any) -> int:
    return int(backbone.config.get_text_config().num_attention_heads)


def _fit_mask(mask: Tensor, backbone: Any) -> Tensor:
    """Return the mask as the attention takes it: eager attention adds it to the scores."""
    if backbone.config._attn_implementation != "eager":
        return mask
    dtype = next(p.dtype for p in backbone.parameters() if p.dtype.is_floating_point)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _refuse_other_attention(model: Any, source: ShortGroupsSource) -> None:
    """Raise where layers attend by windows or chunks, or by a kernel that takes no mask for each head."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    flash = "flash" in str(model.config._attn_implementation)
    if kinds == {"full_attention"} and not flash:
        return
    why = "flash_attention_2 takes no mask for each head"
    if not flash:
        why = f"{source.name} has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    raise UserError(
        f"attention in groups is for layers of full attention: {why}.",
        where="model.attention" if flash else "model.groups",
        fix="model.attention=auto" if flash else "model.groups=none",
    )
