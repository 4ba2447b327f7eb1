"""QST (arXiv 2401.07159) as a PEFT tuner: the module that holds the blocks, with a side network.

PEFT sees one adapted layer, the trunk of the model ("model", "transformer"). It runs without
gradients and in evaluation mode; what it puts out is mixed with what the side network makes of its
hidden states. Loss, generation, head and wrappers of the model are the family's own.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.utils import PeftType
from torch import Tensor, nn

from ftcli.methods.tuners.base import Tuner, TunerLayer, register
from ftcli.papers.qst.side import Downsample, OutputGate, SideNetwork
from ftcli.papers.qst.side_model import trunk_of
from ftcli.papers.qst.states import HiddenStates
from ftcli.papers.qst.trace import Trace

#: Choices of `SideNetwork` in a configuration.
SHAPE = ("reduction", "downsample", "rank", "layer_gate", "output_gate", "output_gate_form")


@dataclass
class QstConfig(PeftConfig):
    """A side network beside all blocks of a causal model."""

    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "the module that holds the blocks; null: it is found"}
    )
    reduction: int = field(
        default=16, metadata={"help": "widths of the side network are divided by it"}
    )
    downsample: Downsample = field(
        default="adapter", metadata={"help": "how a block's hidden states become narrow"}
    )
    rank: int = field(default=16, metadata={"help": "inner width of downsample=adapter and lora"})
    layer_gate: float = field(
        default=0.5,
        metadata={"help": "start of gamma: sigmoid(gamma) of the side's own state is kept"},
    )
    output_gate: float = field(
        default=1.0,
        metadata={"help": "start of the base's share in the output; 1 is the base itself"},
    )
    output_gate_form: OutputGate = field(
        default="direct",
        metadata={"help": "what is trained: the share, a number whose sigmoid it is, or nothing"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.QST  # type: ignore[attr-defined]
        if self.reduction < 1 or self.rank < 1:
            raise ValueError("`reduction` and `rank` should be at least 1")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class SideTuned(TunerLayer):
    """The trunk of a model with a side network; attributes that it has not are the trunk's.

    Attributes:
        states: where hidden states of the trunk are kept; None computes them each time.
    """

    adapter_layer_names = ("qst_side",)

    def __init__(self, base_layer: nn.Module, model: nn.Module) -> None:
        super().__init__(base_layer)
        self.qst_side = nn.ModuleDict()
        self.blocks_name = trunk_of(model).blocks
        self._model = [model]  # in a list: it is not a part of this module
        self._signature = inspect.signature(base_layer.forward)
        self._tuples: bool | None = None  # whether blocks return tuples; None: not seen yet
        self.states: HiddenStates | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def add(self, adapter: str, config: QstConfig) -> None:
        """A fresh side network, on the trunk's device and in its type."""
        side = SideNetwork(self._model[0], **{name: getattr(config, name) for name in SHAPE})
        own = next(p for p in self.base_layer.parameters() if p.dtype.is_floating_point)
        self.qst_side[adapter] = side if own.is_meta else side.to(own.device, own.dtype)

    def train(self, mode: bool = True) -> SideTuned:
        """The side network; the base is never trained, so that its dropout stays off."""
        super().train(mode)
        self.base_layer.eval()
        return self

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError("a side network is no change of the base's weights")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the trunk's: what the head is given is mixed."""
        trunk: Any = self.base_layer
        names = self.adapters_in_effect()
        if not names:
            return trunk(*args, **kwargs)
        trace, output = self._traced(args, kwargs)
        last = output.last_hidden_state
        for name in names:
            side: Any = self.qst_side[name]
            side.config._attn_implementation = trunk.config._attn_implementation
            last = side(trace, last)
        output.last_hidden_state = last
        return output

    @torch.no_grad()
    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Trace, Any]:
        """The frozen pass over these arguments, from kept states where there are such."""
        if self.states is None:
            return self._watched(args, kwargs)
        if self._tuples is None:  # how a block's output is wrapped shows when one has run
            self._watched(args, kwargs)
        given = _named(self._signature.bind(*args, **kwargs))
        known = self.states.of(given, self._computed)
        return self._watched(args, kwargs, known)

    def _watched(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], known: Tensor | None = None
    ) -> tuple[Trace, Any]:
        trunk: Any = self.base_layer
        trace = Trace(None if known is None else list(known), bool(self._tuples))
        with trace.watching(trunk, trunk.get_submodule(self.blocks_name)):
            output = trunk(*args, **kwargs)
        self._tuples = trace.tuples
        return trace, output

    def _computed(self, given: dict[str, Any]) -> Tensor:
        """Outputs of all blocks [L, B, T, d]."""
        return torch.stack(self._watched((), given)[0].outputs)


class QstModel(Tuner):
    """Puts a side network beside the blocks of a causal model."""

    prefix = "qst_"
    tuner_layer_cls = SideTuned

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """As in PEFT, with the trunk by structure where the configuration names none."""
        config: Any = self.peft_config[adapter_name]
        if config.target_modules is None:
            config.target_modules = {trunk_of(model).name}
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def wrap_layer(self, target: nn.Module, config: Any) -> TunerLayer:
        """The trunk, with a place for side networks of this model."""
        return SideTuned(target, self.model)


def side_layer(model: nn.Module) -> SideTuned:
    """The trunk of a model that has a side network."""
    return next(module for module in model.modules() if isinstance(module, SideTuned))


def _named(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments by name, those of `**kwargs` among them."""
    given = dict(bound.arguments)
    return given | given.pop("kwargs", {})


register("qst", QstConfig, QstModel)
