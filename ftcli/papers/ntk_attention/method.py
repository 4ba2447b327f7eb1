"""NTK-Attention (arXiv 2406.14036) as a PEFT tuner: attention modules that own (k, Z) of every head.

PEFT adapts the attention module, whose projections stay as they are. It gets a configuration of its own that
names the attention registered here; the model's stays, so that packed rows, caches and masks are as before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn
from transformers import AttentionInterface

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import Anatomy
from ftcli.papers.ntk_attention.attention import attend_with_prefix

NAME = "ntk"
OWNER = "ntk_owner"
States = tuple[Tensor, Tensor, Tensor]


@dataclass
class NtkAttentionConfig(PeftConfig):
    """A vector k and a matrix Z in each head of the attention of every block.

    Attributes:
        target_modules: names of attention modules; null: those of all blocks, found by structure.
        modules_to_save: layers that are trained themselves, such as a new classifier.
        init_std: standard deviation of k and Z at the start (1e-4 in the authors' code for language); at 0 the
            fresh model is the base to rounding.
        feature_dropout: share of phi(q) that is dropped in training (0.2 in the authors' code for images).
    """

    target_modules: list[str] | set[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_std: float = 0.0
    feature_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.NTKATTENTION  # type: ignore[attr-defined]
        if self.init_std < 0 or not 0 <= self.feature_dropout < 1:
            raise ValueError("`init_std` should be at least 0, `feature_dropout` in [0, 1)")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class PrefixedAttention(TunerLayer):
    """An attention module with prefix terms; other attributes are looked up in the module."""

    adapter_layer_names = ("ntkattention_k", "ntkattention_Z")
    ntkattention_k: nn.ParameterDict
    ntkattention_Z: nn.ParameterDict

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.ntkattention_dropout = nn.ModuleDict()
        module: Any = base_layer
        self.model_config = module.config
        module.config = copy.copy(module.config)
        module.config._attn_implementation_internal = NAME
        module.__dict__[OWNER] = self  # not registered: it would be a module inside itself

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def add(self, adapter: str, config: NtkAttentionConfig) -> None:
        """Add k [H, d] and Z [H, d, d] in float32, on the device of the module."""
        heads, width = self.model_config.num_attention_heads, _get_head_width(self.base_layer)
        device = next(self.base_layer.parameters()).device
        start = torch.zeros(heads, width, width + 1)
        if config.init_std:
            start.normal_(std=config.init_std)
        self.ntkattention_k[adapter] = nn.Parameter(start[..., 0].clone().to(device))
        self.ntkattention_Z[adapter] = nn.Parameter(start[..., 1:].clone().to(device))
        self.ntkattention_dropout[adapter] = nn.Dropout(config.feature_dropout)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the attention module, whose attention comes back to `attend`."""
        return self.base_layer(*args, **kwargs)

    def attend(
        self, module: nn.Module, states: States, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """Return the output [B, T, H, d] of queries, keys and values [B, H, T, d], and no weights."""
        implementation = self.model_config._attn_implementation
        names = self.adapters_in_effect()
        if not names:
            return _attend_plainly(implementation, module, states, mask, **kwargs)
        k = torch.stack([self.ntkattention_k[name] for name in names]).sum(0)
        Z = torch.stack([self.ntkattention_Z[name] for name in names]).sum(0)
        dropout = self.ntkattention_dropout[names[0]]
        out = attend_with_prefix(
            implementation,
            module,
            *states,
            attention_mask=mask,
            k=k,
            Z=Z,
            feature_dropout=dropout,
            **kwargs,
        )
        return out, None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge.

        Raises:
            ValueError: always.
        """
        raise ValueError("a prefix term in attention cannot be merged into weights")


class NtkAttentionModel(Tuner):
    """Tuner that puts prefix terms into the attention of a model's blocks."""

    prefix = "ntkattention_"
    tuner_layer_cls = PrefixedAttention

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Inject as PEFT does, after finding the attention modules where the configuration names none."""
        config: Any = self.peft_config[adapter_name]
        if config.target_modules is None:
            config.target_modules = set(find_attention(model))
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def wrap_layer(self, target: nn.Module, config: Any) -> TunerLayer:
        """Return the layer around an attention module.

        Raises:
            ValueError: its attention cannot be replaced by name.
        """
        _refuse_attention(target)
        return PrefixedAttention(target)


def find_attention(model: nn.Module) -> list[str]:
    """Return the names of the attention modules within blocks.

    Raises:
        ValueError: there is none whose attention transformers looks up by name.
    """
    blocks = {id(m): name for name, block in Anatomy(model).blocks for m in block.modules()}
    names = [name for name, m in model.named_modules() if id(m) in blocks and _is_attention(m)]
    if not names:
        raise ValueError("no block of this model has attention that is looked up by name")
    return names


def _is_attention(module: nn.Module) -> bool:
    """Whether a module has what transformers' attention functions read from their first argument."""
    return hasattr(module, "is_causal") and hasattr(module, "config")


def _refuse_attention(module: Any) -> None:
    implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if not _is_attention(module):
        raise ValueError(f"{type(module).__name__} is no attention that is looked up by name")
    if "flash" in str(implementation):
        raise ValueError(f"{implementation} has no form with a further term; use attention=auto")


def _get_head_width(module: Any) -> int:
    width = getattr(module, "head_dim", None) or getattr(module, "attention_head_size", None)
    return int(width or module.config.hidden_size // module.config.num_attention_heads)


def _attend_plainly(
    implementation: str,
    module: nn.Module,
    states: States,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The attention that the model has without prefix terms."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS["sdpa" if implementation == "eager" else implementation]
    result: tuple[Tensor, Any] = attend(module, *states, mask, **kwargs)
    return result


def _attend_by_owner(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The attention function of adapted modules: finds the layer that holds their prefix terms."""
    owner: PrefixedAttention = module.__dict__[OWNER]
    return owner.attend(module, (query, key, value), attention_mask, **kwargs)


AttentionInterface.register(NAME, _attend_by_owner)
register("ntkattention", NtkAttentionConfig, NtkAttentionModel)
