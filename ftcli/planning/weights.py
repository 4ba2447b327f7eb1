"""Parameters of a prepared model, counted on the meta device: stored, trained, active at a step.

Also the second copy of the model that an objective or a penalty compares with.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ftcli.core.callback import State, StateSize
from ftcli.models.anatomy import Anatomy
from ftcli.models.bits import compute_stored_bytes
from ftcli.trainable.blockwise import Blockwise, StateOnSwitch

if TYPE_CHECKING:
    from ftcli.planning.meta_run import MetaRun


@dataclass(frozen=True)
class Weights:
    """Sizes of a model's stored and trained weights, in bytes where not counted in entries.

    Attributes:
        parameters: number of parameters of the base model, tied tensors once.
        trainable: entries that require a gradient.
        adapter_parameters: entries that the method has added.
        quantised_parameters: entries that are stored quantised.
        quantised: their bytes as packed codes with scales.
        rest: bytes of the base model's other weights.
        adapter: bytes of what the method has added.
        trained_bytes: bytes of the trained tensors, and of their gradients, which have their type.
        dequantised: bytes of the largest weight while a product unpacks it.
        trained: name, shape and type of every trainable tensor.
    """

    parameters: int
    trainable: int
    adapter_parameters: int
    quantised_parameters: int
    quantised: int
    rest: int
    adapter: int
    trained_bytes: int
    dequantised: int
    trained: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]

    @property
    def base(self) -> int:
        """Bytes of the base model."""
        return self.quantised + self.rest

    def bytes_of(self, names: Container[str]) -> int:
        """Bytes of some of the trained tensors."""
        return sum(
            prod(shape) * dtype.itemsize for name, shape, dtype in self.trained if name in names
        )

    @property
    def bits(self) -> float | None:
        """Bits a quantised weight takes, scales counted; None without quantisation."""
        return 8 * self.quantised / self.quantised_parameters if self.quantised_parameters else None


def find_quantised_weights(model: nn.Module, quantization: str) -> dict[int, nn.Parameter]:
    """Return the weights that loading will quantise, by id: untrained linears of the blocks."""
    if quantization == "none":
        return {}
    weights = (linear.module.weight for linear in Anatomy(model).block_linears)
    return {id(w): w for w in weights if isinstance(w, nn.Parameter) and not w.requires_grad}


def count_weights(
    model: nn.Module, quantization: str = "none", double_quant: bool = True
) -> Weights:
    """Count the parameters of a model that its method has prepared, and their bytes.

    Args:
        model: on the meta device, or small and on the CPU.
        quantization: how the linears of the blocks will be stored: none, nf4, fp4 or int8.
        double_quant: whether the scales of nf4 and fp4 are quantised too.
    """
    packed = find_quantised_weights(model, quantization)
    anatomy = Anatomy(model)
    base = {id(p): p for m in anatomy.modules.values() for p in m.parameters(recurse=False)}
    added = [p for p in model.parameters() if id(p) not in base]
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trained = [p for _, p in named]
    return Weights(
        parameters=anatomy.parameters(),
        trainable=sum(p.numel() for p in trained),
        adapter_parameters=sum(p.numel() for p in added),
        quantised_parameters=sum(p.numel() for p in packed.values()),
        quantised=sum(
            compute_stored_bytes(w.shape[0], w.shape[1], quantization, double_quant).total
            for w in packed.values()
        ),
        rest=sum(tensor_bytes(p) for key, p in base.items() if key not in packed),
        adapter=sum(tensor_bytes(p) for p in added),
        trained_bytes=sum(tensor_bytes(p) for p in trained),
        dequantised=max((tensor_bytes(p) for p in packed.values()), default=0),
        trained=tuple((name, tuple(p.shape), p.dtype) for name, p in named),
    )


def tensor_bytes(parameter: nn.Parameter) -> int:
    """Return the bytes of a tensor that is stored unquantised."""
    return parameter.numel() * parameter.element_size()


@dataclass(frozen=True)
class ActiveParameters:
    """The parameters that are trained at one step, at most, where a policy changes them.

    Attributes:
        names: parameters with a gradient, by name.
        inactive_state: what becomes of the optimizer state of the others: keep, drop or offload.
            Where the same blocks are active from first to last, the others never have a state,
            which is drop.
    """

    names: frozenset[str]
    inactive_state: StateOnSwitch


def find_active_parameters(meta_run: MetaRun) -> ActiveParameters:
    """Find what a job trains at a step; without a policy of blocks, all that its method trains.

    Of blocks that are drawn anew the largest are taken, of equal ones the lowest: they keep most for
    the backward pass.

    Raises:
        UserError: the policy does not fit the model.
    """
    policy, model = meta_run.trainable, meta_run.model
    if not isinstance(policy, Blockwise):
        trained = (name for name, p in model.named_parameters() if p.requires_grad)
        return ActiveParameters(frozenset(trained), "keep")
    run: Any = SimpleNamespace(
        model=model,
        seed=int(meta_run.config.get("seed", 0)),
        accelerator=SimpleNamespace(num_processes=1),
    )
    policy.setup(run)
    chosen = policy.choose(State(run, model, max_steps=1))
    is_fixed = policy.every.steps is None and policy.every.epochs is None
    policy.active = list(chosen if is_fixed else _largest_blocks(policy, len(chosen)))
    on = {id(parameter) for parameter in policy.split()[0]}
    names = frozenset(name for name, parameter in policy.candidates if id(parameter) in on)
    return ActiveParameters(names, "drop" if is_fixed else policy.state_on_switch)


def _largest_blocks(policy: Blockwise, count: int) -> list[int]:
    inside = policy.candidates.inside
    sizes = {block: sum(tensor_bytes(p) for _, p in named) for block, named in inside.items()}
    return sorted(sizes, key=lambda block: (-sizes[block], block))[:count]


@contextmanager
def freeze_inactive(model: nn.Module, active: frozenset[str]) -> Iterator[None]:
    """Freeze all trainable parameters but the named ones inside the block."""
    inactive = [p for name, p in model.named_parameters() if p.requires_grad and name not in active]
    for parameter in inactive:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in inactive:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class ReferenceCopy:
    """Size of the second copy of the model; all that compare with it share one.

    Attributes:
        bytes: 0 without a copy.
        leaves: all that is asked of it is computed before the first step, then it is freed.
    """

    bytes: int = 0
    leaves: bool = False


def weigh_reference(meta_run: MetaRun) -> ReferenceCopy:
    """Count the copy that a job reads from the model's source, stored as the model is.

    What compares with a copy has a field `reference` (see `ftcli.objectives.reference`); with a
    weight `beta` of 0 it does not compare.
    """
    components = [meta_run.objective, *meta_run.penalties.values()]
    users = [user for user in components if _needs_copy(user, meta_run.method.keeps_base)]
    if not users:
        return ReferenceCopy()
    bare = meta_run.source.build_meta_model().requires_grad_(False)
    double = getattr(meta_run.source, "double_quant", True)
    leaves = all(getattr(user, "precompute", False) for user in users)
    return ReferenceCopy(count_weights(bare, meta_run.quantization, double).base, leaves)


def count_callbacks(meta_run: MetaRun, trained: Sequence[tuple[str, Any, Any]]) -> StateSize:
    """Return the bytes that the callbacks of the group `callback` keep for the trained tensors."""
    sizes = [callback.count_state(trained) for callback in meta_run.callbacks.values()]
    return StateSize(sum(s.memory for s in sizes), sum(s.checkpoint for s in sizes))


def _needs_copy(component: Any, keeps_base: bool) -> bool:
    """Whether an objective or penalty compares with a copy that its method cannot stand in for."""
    mode = getattr(component, "reference", None)
    if mode is None or not getattr(component, "beta", 1.0):
        return False
    return mode == "separate" or (mode == "auto" and not keeps_base)
