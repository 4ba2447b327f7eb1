"""The parts of a model: embeddings, ordered blocks, norms, head, linears, tied and fused layers.

They are found by structure (repeated blocks in a ModuleList, transformers' embedding accessors,
shapes), never by a table of model names, so that unknown models work too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

ATTENTION_MARKS = (
    "head_dim",
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "attention_head_size",
    "head_size",
)


@dataclass(frozen=True)
class Linear:
    """A linear layer with its unpacked shape.

    Attributes:
        kind: linear, conv1d (GPT-2: weight stored input first), 4bit or 8bit.
        fused: qkv, gate_up, or empty for an ordinary layer.
        parts: output sizes of the fused layers: (query, key, value) or (gate, up).
    """

    name: str
    module: nn.Module
    in_features: int
    out_features: int
    kind: str = "linear"
    fused: str = ""
    parts: tuple[int, ...] = ()

    @property
    def weights(self) -> int:
        """Entries of the weight matrix, without the bias."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class Stack:
    """A sequence of repeated blocks.

    Attributes:
        name: name of its ModuleList.
        role: encoder or decoder.
        blocks: names and modules, in order.
    """

    name: str
    role: str
    blocks: tuple[tuple[str, nn.Module], ...]


class Anatomy:
    """The parts of a torch model, addressed by their dotted names.

    Works on plain transformers models, on models quantised by bitsandbytes, under PEFT wrappers
    (names and layers are the base model's, adapters are left out), and on the meta device.
    """

    def __init__(self, model: nn.Module) -> None:
        unwrap = getattr(model, "get_base_model", None)
        self.model: nn.Module = unwrap() if callable(unwrap) else model

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module of the base model by name; adapter wrappers are replaced by what they wrap."""
        return dict(_walk(self.model, ""))

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """All linear layers in the order of the model, the head included."""
        linears = [_linear(name, module) for name, module in self.modules.items()]
        return tuple(self._mark_fused([item for item in linears if item is not None]))

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """The outermost sequences of repeated blocks, in the order of the model."""
        stacks: list[Stack] = []
        for name, module in self.modules.items():
            inside = any(_is_within(name, stack.name) for stack in stacks)
            if not inside and isinstance(module, nn.ModuleList) and self._are_blocks(name, module):
                blocks = tuple((f"{name}.{i}", child) for i, child in enumerate(module))
                stacks.append(Stack(name, self._role(module), blocks))
        return tuple(stacks)

    @property
    def blocks(self) -> tuple[tuple[str, nn.Module], ...]:
        """All blocks with their names, first to last (an encoder before its decoder)."""
        return tuple(block for stack in self.stacks for block in stack.blocks)

    @property
    def block_linears(self) -> tuple[Linear, ...]:
        """The linears inside blocks: "all linears" of adapters and of quantisation."""
        return tuple(linear for linear in self.linears if self._is_in_blocks(linear.name))

    def linears_of(self, block: str) -> tuple[Linear, ...]:
        """Return the linears of one block, given by its name."""
        return tuple(linear for linear in self.linears if _is_within(linear.name, block))

    @cached_property
    def embeddings(self) -> tuple[tuple[str, nn.Module], ...]:
        """Embedding tables outside blocks, the token table first."""
        tables = [
            (name, module)
            for name, module in self.modules.items()
            if hasattr(module, "num_embeddings") and not self._is_in_blocks(name)
        ]
        token = _call_accessor(self.model, "get_input_embeddings")
        tables.sort(key=lambda item: item[1] is not token)
        if token is not None and not any(module is token for _, module in tables):
            tables[:0] = [(name, m) for name, m in self.modules.items() if m is token]
        return tuple(tables)

    @cached_property
    def norms(self) -> tuple[tuple[str, nn.Module], ...]:
        """Normalisation layers: leaves whose weight is a vector."""
        return tuple((n, m) for n, m in self.modules.items() if _is_norm(m))

    @cached_property
    def head(self) -> tuple[str, nn.Module] | None:
        """Name and module of the output layer: by transformers' accessor, else the last linear after the blocks."""
        output = _call_accessor(self.model, "get_output_embeddings")
        if output is not None:
            return next((n, m) for n, m in self.modules.items() if m is output)
        core = getattr(self.model, getattr(self.model, "base_model_prefix", "") or "-", None)
        inner = {id(m) for m in core.modules()} if isinstance(core, nn.Module) else set()
        outer = [
            li
            for li in self.linears
            if id(li.module) not in inner and not self._is_in_blocks(li.name)
        ]
        return (outer[-1].name, outer[-1].module) if outer else None

    @property
    def tied(self) -> bool:
        """Whether the head shares its weight with the token table."""
        if self.head is None or not self.embeddings:
            return False
        head = getattr(self.head[1], "weight", None)
        return head is not None and head is getattr(self.embeddings[0][1], "weight", None)

    def parameters(self) -> int:
        """Count the parameters of the base model; tied ones once, packed ones unpacked."""
        return _count(self.modules.values(), trainable_only=False)

    def _is_in_blocks(self, name: str) -> bool:
        return any(_is_within(name, stack.name) for stack in self.stacks)

    def _are_blocks(self, name: str, modules: nn.ModuleList) -> bool:
        """Whether every child has linears below it and none is a linear itself."""
        if len(modules) == 0 or any(_linear("", child) for child in modules):
            return False
        return all(
            any(_linear("", module) for _, module in _walk(child, f"{name}.{i}"))
            for i, child in enumerate(modules)
        )

    def _role(self, blocks: nn.ModuleList) -> str:
        config = getattr(self.model, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            for role in ("decoder", "encoder"):
                part = _call_accessor(self.model, f"get_{role}")
                if part is not None and any(module is blocks for module in part.modules()):
                    return role
        causal = any(getattr(module, "is_causal", False) for module in blocks.modules())
        return "decoder" if causal else "encoder"

    def _mark_fused(self, linears: list[Linear]) -> Iterator[Linear]:
        """Mark fused layers: their output is wider than the input of their only sibling, the projection."""
        siblings: dict[str, list[Linear]] = {}
        for linear in linears:
            siblings.setdefault(linear.name.rpartition(".")[0], []).append(linear)
        for linear in linears:
            parent = linear.name.rpartition(".")[0]
            group = siblings[parent]
            attention = any(hasattr(self.modules.get(parent), mark) for mark in ATTENTION_MARKS)
            fused: str = ""
            parts: tuple[int, ...] = ()
            if len(group) == 2:
                other = group[1] if linear is group[0] else group[0]
                fused, parts = _find_fusion(linear.out_features, other.in_features, attention)
            yield Linear(
                linear.name,
                linear.module,
                linear.in_features,
                linear.out_features,
                linear.kind,
                fused,
                parts,
            )


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Count parameters by unpacked shape; a tensor that two layers share counts once.

    Args:
        trainable_only: count only tensors that require a gradient.
    """
    return _count(model.modules(), trainable_only)


def _count(modules: Iterable[nn.Module], trainable_only: bool) -> int:
    seen: set[int] = set()
    total = 0
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or (trainable_only and not parameter.requires_grad):
                continue
            seen.add(id(parameter))
            total += true_numel(module, name, parameter)
    return total


def true_numel(module: nn.Module, name: str, parameter: nn.Parameter) -> int:
    """Return the number of values of a parameter: a 4-bit weight holds two in each byte."""
    shape = _shape(module)
    packed = not parameter.dtype.is_floating_point
    return shape[0] * shape[1] if name == "weight" and shape and packed else parameter.numel()


def _walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules depth first; an adapter layer is replaced by the layer it wraps."""
    module = _unwrap(module)
    yield name, module
    for child_name, child in module.named_children():
        yield from _walk(child, f"{name}.{child_name}" if name else child_name)


def _unwrap(module: nn.Module) -> nn.Module:
    """Return the layer under adapters, under a trained copy, and under trained rows of a table."""
    base = getattr(module, "base_layer", getattr(module, "original_module", None))
    return _unwrap(base) if isinstance(base, nn.Module) else module


def _is_within(name: str, ancestor: str) -> bool:
    return name == ancestor or name.startswith(f"{ancestor}.")


def _call_accessor(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module that an accessor of transformers gives; None for models without that part."""
    method = getattr(model, name, None)
    if method is None:
        return None
    try:
        module = method()
    except (AttributeError, NotImplementedError):
        return None
    return _unwrap(module) if isinstance(module, nn.Module) and module is not model else None


def _shape(module: Any) -> tuple[int, int] | None:
    """Return (out, in) of a linear or embedding, by the attributes of its class; None for others."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)
    if hasattr(module, "nf") and hasattr(module, "nx"):
        return int(module.nf), int(module.nx)
    if hasattr(module, "num_embeddings") and hasattr(module, "embedding_dim"):
        return int(module.num_embeddings), int(module.embedding_dim)
    return None


def _linear(name: str, module: nn.Module) -> Linear | None:
    shape = _shape(module)
    weight: Any = getattr(module, "weight", None)
    if shape is None or weight is None or hasattr(module, "num_embeddings"):
        return None
    kind = "conv1d" if hasattr(module, "nf") else "linear"
    if hasattr(weight, "quant_type"):  # bitsandbytes' Params4bit, packed already or still to be
        kind = "4bit"
    elif hasattr(weight, "SCB"):  # its Int8Params
        kind = "8bit"
    return Linear(name, module, shape[1], shape[0], kind)


def _is_norm(module: nn.Module) -> bool:
    parameters = dict(module.named_parameters(recurse=False))
    leaf = next(module.children(), None) is None
    weight = parameters.get("weight")
    return leaf and weight is not None and all(p.dim() == 1 for p in parameters.values())


def _find_fusion(out: int, taken: int, attention: bool) -> tuple[str, tuple[int, ...]]:
    """Return kind and part sizes of a layer of width `out` before a projection of input `taken`."""
    extra = out - taken
    if attention and extra > 0 and extra % 2 == 0:
        return "qkv", (taken, extra // 2, extra // 2)
    if not attention and out == 2 * taken:
        return "gate_up", (taken, taken)
    return "", ()
