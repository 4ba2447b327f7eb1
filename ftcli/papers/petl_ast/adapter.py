"""Adapters beside or behind whole sublayers of a transformer (PETL-AST, arXiv 2312.03694, sections 3 and 4).

With n the normalised input of a sublayer F (attention or MLP) of a block, and A the adapter:

    parallel              x + F(n) + A(n)
    sequential            x + A(F(n))
    sequential, residual  x + F(n) + A(F(n))

Pfeiffer's configuration (arXiv 2005.00247) adapts the MLPs, Houlsby's (1902.00751) the attention too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.models.anatomy import ATTENTION_MARKS, Anatomy
from ftcli.papers.petl_ast.blocks import Bottleneck, Conformer, Start


@dataclass
class SublayerConfig(PeftConfig):
    """Options of the adapters: their network and their place."""

    block: Literal["bottleneck", "conformer"] = "bottleneck"  # the adapter itself
    placement: Literal["parallel", "sequential"] = "parallel"  # beside the sublayer, or behind it
    sites: Literal["ffn", "both"] = "ffn"  # the MLPs (Pfeiffer), or attention too (Houlsby)
    residual: bool = False  # sequential: also add the sublayer's own output
    reduction_factor: float = 96  # width of the model over that of the adapter
    kernel: int = 31  # conformer: tokens that the convolution sees, odd
    dropout: float = 0.0  # conformer: share of its output
    start: Start = (
        "zero_up"  # zero_both: as released, where both matrices of a bottleneck stay zero
    )
    train_norms: bool = True  # the norm in front of each adapted sublayer is trained as well
    target_modules: list[str] | str | None = field(default=None)  # null: found by structure
    exclude_modules: list[str] | str | None = field(default=None)  # sublayers that are left out
    modules_to_save: list[str] | None = field(default=None)  # layers that are trained themselves

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: names the option that is wrong.
        """
        super().__post_init__()
        self.peft_type = PeftType("SUBLAYER")
        if self.reduction_factor <= 0:
            raise ValueError(f"reduction_factor={self.reduction_factor} is not positive")
        if self.block == "conformer" and self.kernel % 2 == 0:
            raise ValueError(
                f"kernel={self.kernel} is even, and a convolution centred on a token needs an odd one"
            )
        if self.residual and self.placement == "parallel":
            raise ValueError(
                "residual=true is for placement=sequential; parallel always keeps the sublayer's output"
            )


class SublayerLayer(TunerLayer):
    """A sublayer with its adapters; they are not a change of a weight and cannot be merged."""

    adapter_layer_names = ("sublayer_adapter",)
    sublayer_adapter: nn.ModuleDict

    def __init__(self, base_layer: nn.Module, causal: bool = False) -> None:
        """Wrap a sublayer; `causal`: whether it is in a decoder."""
        super().__init__(base_layer)
        self.causal = causal
        self.sublayer_adapter = nn.ModuleDict()
        self.forms: dict[str, tuple[str, bool]] = {}

    def add(self, adapter: str, config: SublayerConfig) -> None:
        """Add a bottleneck or Conformer block of the sublayer's width."""
        base = self.get_base_layer()
        width = Anatomy(base).linears[-1].out_features
        narrow = max(1, round(width / config.reduction_factor))
        place = next(base.parameters()).device
        if config.block == "bottleneck":
            block: nn.Module = Bottleneck(width, narrow, config.start)
        else:
            options = (config.kernel, config.dropout, config.start, self.causal)
            block = Conformer(width, narrow, *options)
        self.sublayer_adapter[adapter] = block.to(place)
        self.forms[adapter] = (config.placement, config.residual)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the sublayer's output with its first tensor [B, T, h] changed by the active adapters."""
        x = args[0] if args else kwargs["hidden_states"]
        result = self.base_layer(*args, **kwargs)
        out: Tensor = result[0] if isinstance(result, tuple) else result
        for name in self.adapters_in_effect():
            placement, residual = self.forms[name]
            parallel = placement == "parallel"
            block: Any = self.sublayer_adapter[name]
            change = block((x if parallel else out).to(block.up.weight.dtype)).to(out.dtype)
            out = out + change if parallel or residual else change
        return (out, *result[1:]) if isinstance(result, tuple) else out


class SublayerModel(Tuner):
    """Adds an adapter beside or behind each MLP, and each attention where `sites` is both."""

    prefix = "sublayer_"
    tuner_layer_cls = SublayerLayer

    def layer_class(self, target: nn.Module) -> Any:
        """Return the tuner layer class, with `causal` set for decoders."""
        roles = {stack.role for stack in Anatomy(self.model).stacks}
        return partial(SublayerLayer, causal="decoder" in roles)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # no list by model family: `_prepare_model` sees the model itself

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        if peft_config.target_modules is not None:
            return
        sites = list(find_sublayers(model, peft_config.sites))
        peft_config.target_modules = {site.name for site in sites}
        if peft_config.train_norms:
            norms = {site.norm for site in sites if site.norm}
            peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or ()), *norms})


class Site(NamedTuple):
    """Full names of a sublayer and of the norm before it."""

    name: str
    norm: str


def find_sublayers(model: nn.Module, sites: str) -> Iterator[Site]:
    """Yield the MLP of each block, preceded by its attention where `sites` is both.

    Raises:
        ValueError: they are not separate modules, or contain the residual sum and its norm as in BERT.
    """
    anatomy = Anatomy(model)
    for block, module in anatomy.blocks:
        linears = anatomy.linears_of(block)
        closing = linears[-1].name.removeprefix(f"{block}.").split(".")[0]
        children = dict(module.named_children())
        attention = next((n for n, child in children.items() if _is_attention(child)), None)
        names = [attention, closing] if sites == "both" else [closing]
        norms = [n for n, _ in anatomy.norms if n.rpartition(".")[0] == block]
        for name, norm in zip(names, [norms[:1], norms[-1:]][-len(names) :], strict=True):
            inside = [n for n, _ in anatomy.norms if n.startswith(f"{block}.{name}.")]
            last = name is not None and name == closing
            if name is None or inside or (last and len(anatomy.linears_of(f"{block}.{name}")) < 2):
                raise ValueError(
                    f"{block} has no {'MLP' if last else 'attention'} that is a module of its own, "
                    "with its norm outside"
                )
            yield Site(f"{block}.{name}", norm[0] if norm else "")


def _is_attention(module: nn.Module) -> bool:
    return any(hasattr(module, mark) for mark in ATTENTION_MARKS)


register("sublayer", SublayerConfig, SublayerModel)
