"""QST (arXiv 2401.07159) as a PEFT tuner: the module that holds the blocks, with a side network.

PEFT sees one adapted layer, the backbone of the model ("model", "transformer"). It runs without
gradients and in evaluation mode; its output is mixed with the side network's, which is computed from the
backbone's hidden states. Loss, generation, head and wrappers of the model are unchanged.
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
from ftcli.papers.qst.side_model import find_backbone
from ftcli.papers.qst.states import HiddenStates
from ftcli.papers.qst.trace import Trace

#: Arguments of `SideNetwork` in a configuration.
SHAPE = ("reduction", "downsample", "rank", "layer_gate", "output_gate", "output_gate_form")


@dataclass
class QstConfig(PeftConfig):
    """A side network beside all blocks of a causal model."""

    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={"help": "the module that holds the blocks; null: found by structure"},
    )
    reduction: int = field(
        default=16, metadata={"help": "widths of the side network are divided by it"}
    )
    downsample: Downsample = field(
        default="adapter",
        metadata={"help": "how a block's hidden states are reduced to the side network's width"},
    )
    rank: int = field(default=16, metadata={"help": "inner width of downsample=adapter and lora"})
    layer_gate: float = field(
        default=0.5,
        metadata={"help": "initial gamma: sigmoid(gamma) is the share of the side network's state"},
    )
    output_gate: float = field(
        default=1.0,
        metadata={"help": "initial share of the base in the output; 1 is the base's output"},
    )
    output_gate_form: OutputGate = field(
        default="direct",
        metadata={
            "help": "what is trained: the share (direct), its logit (sigmoid), or nothing (fixed)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.QST  # type: ignore[attr-defined]
        if self.reduction < 1 or self.rank < 1:
            raise ValueError("`reduction` and `rank` should be at least 1")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class SideTunedBackbone(TunerLayer):
    """The backbone of a model with a side network; other attributes are looked up in the backbone.

    Attributes:
        states: cache of the backbone's hidden states; None computes them each time.
    """

    adapter_layer_names = ("qst_side",)

    def __init__(self, base_layer: nn.Module, model: nn.Module) -> None:
        super().__init__(base_layer)
        self.qst_side = nn.ModuleDict()
        self.blocks_name = find_backbone(model).blocks
        self._model = [model]  # in a list, so that it is not registered as a submodule
        self._signature = inspect.signature(base_layer.forward)
        self._tuples: bool | None = None  # whether blocks return tuples; None: not known yet
        self.states: HiddenStates | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def add(self, adapter: str, config: QstConfig) -> None:
        """Add a fresh side network, on the backbone's device and in its type."""
        side = SideNetwork(self._model[0], **{name: getattr(config, name) for name in SHAPE})
        weight = next(p for p in self.base_layer.parameters() if p.dtype.is_floating_point)
        self.qst_side[adapter] = side if weight.is_meta else side.to(weight.device, weight.dtype)

    def train(self, mode: bool = True) -> SideTunedBackbone:
        """Set the mode of the side network; the base stays in evaluation mode, without dropout."""
        super().train(mode)
        self.base_layer.eval()
        return self

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge.

        Raises:
            ValueError: always.
        """
        raise ValueError("a side network cannot be merged into the base's weights")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone and mix its last hidden states with the side network's output."""
        backbone: Any = self.base_layer
        names = self.adapters_in_effect()
        if not names:
            return backbone(*args, **kwargs)
        trace, output = self._run_base(args, kwargs)
        last = output.last_hidden_state
        for name in names:
            side: Any = self.qst_side[name]
            side.config._attn_implementation = backbone.config._attn_implementation
            last = side(trace, last)
        output.last_hidden_state = last
        return output

    @torch.no_grad()
    def _run_base(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Trace, Any]:
        """Run the frozen backbone on these arguments, with cached hidden states where there are any."""
        if self.states is None:
            return self._record_pass(args, kwargs)
        if self._tuples is None:  # whether blocks return tuples is known after a first pass
            self._record_pass(args, kwargs)
        arguments = _name_arguments(self._signature.bind(*args, **kwargs))
        states = self.states.get_states(arguments, self._compute_states)
        return self._record_pass(args, kwargs, states)

    def _record_pass(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], states: Tensor | None = None
    ) -> tuple[Trace, Any]:
        backbone: Any = self.base_layer
        trace = Trace(None if states is None else list(states), bool(self._tuples))
        with trace.record_blocks(backbone, backbone.get_submodule(self.blocks_name)):
            output = backbone(*args, **kwargs)
        self._tuples = trace.tuples
        return trace, output

    def _compute_states(self, arguments: dict[str, Any]) -> Tensor:
        """Return the outputs of all blocks [L, B, T, d]."""
        return torch.stack(self._record_pass((), arguments)[0].outputs)


class QstModel(Tuner):
    """Tuner that adds a side network beside the blocks of a causal model."""

    prefix = "qst_"
    tuner_layer_cls = SideTunedBackbone

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Inject as PEFT does, after finding the backbone where the configuration names none."""
        config: Any = self.peft_config[adapter_name]
        if config.target_modules is None:
            config.target_modules = {find_backbone(model).name}
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def wrap_layer(self, target: nn.Module, config: Any) -> TunerLayer:
        """Return the layer that holds the backbone and the side networks of this model."""
        return SideTunedBackbone(target, self.model)


def side_layer(model: nn.Module) -> SideTunedBackbone:
    """Return the layer of a model that holds its side network."""
    return next(module for module in model.modules() if isinstance(module, SideTunedBackbone))


def _name_arguments(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Return all arguments by name, including those of `**kwargs`."""
    arguments = dict(bound.arguments)
    return arguments | arguments.pop("kwargs", {})


register("qst", QstConfig, QstModel)
