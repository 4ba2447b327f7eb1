"""Deltas: ordered named tensors, finetuned minus base, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.deltas.artefact import Artefact, Kind
from ftcli.deltas.weights import LazyWeights, read_layout

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Delta(Mapping[str, Tensor]):
    """A change of weights. Tensors are float64 and computed when they are read.

    Float64 holds differences of float32 and bfloat16 values exactly (unless one is 2^29 times the
    other), so that base plus delta is the finetuned model to the bit. Operations return new deltas
    and compute nothing before a tensor is read.

    Attributes:
        kind: delta of a whole model, or of the tensors of an adapter (its factors).
        base: fingerprint of the base model.
        shapes: name -> shape, in the order of the names.
        read: name -> float64 tensor.
        dtype: the type in which the finetuned weights were stored.
        history: the operations so far, one line each.
        source: model or adapter whose configuration and tokenizer belong to the delta.
        origin: value of a fresh adapter's tensors, which is subtracted: 0 (LoRA) or 1 (IA3).
    """

    kind: Kind
    base: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Read
    dtype: torch.dtype = torch.float32
    history: tuple[str, ...] = ()
    source: Artefact | None = None
    origin: float = 0.0

    @classmethod
    def open(cls, path: str | Path, base: str | Path | None = None, product: bool = False) -> Delta:
        """Return the delta of a run, a model or adapter folder, or a folder written by `ftcli delta`.

        Args:
            base: the base model, where the source does not record it.
            product: for a LoRA, return the change of the base's matrices instead of its factors.

        Raises:
            UserError: the path is none of these, has no base, or does not fit it.
        """
        from ftcli.deltas import difference, storage
        from ftcli.deltas.product import multiply_factors

        if storage.is_delta(path):
            delta = storage.load_delta(path)
        else:
            artefact = Artefact.open(path)
            beginning = Artefact.open(base) if base is not None else artefact.base
            delta = difference.compute_delta(artefact, beginning)
        return multiply_factors(delta) if product and delta.kind == "adapter" else delta

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def entries(self) -> int:
        """Number of values."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def flat(self) -> Iterator[Tensor]:
        """Yield the tensors flattened, float64 [n], in the order of the names."""
        return (self.read(name).reshape(-1) for name in self.shapes)

    def norm(self, order: int = 2) -> float:
        """Return the norm of all values as one vector."""
        return float(sum(flat.abs().pow(order).sum().item() for flat in self.flat()) ** (1 / order))

    def map(self, change: Callable[[str, Tensor], Tensor], step: str) -> Delta:
        """Return the delta with each tensor replaced by a function of name and value, of the same shape."""
        before = self.read
        return replace(
            self, read=lambda name: change(name, before(name)), history=(*self.history, step)
        )

    def scale(self, factor: float) -> Delta:
        """Return `factor` times the delta."""
        return self.map(lambda _, tensor: tensor * factor, f"scaled by {factor:g}")

    def apply(self, base: Artefact) -> LazyWeights:
        """Return the finetuned tensors: base plus delta, or the tensors of the adapter.

        Raises:
            UserError: the fingerprint of the base is not that of the delta.
        """
        self.refuse_other(base.fingerprint, str(base.folder))
        return self.adapter() if self.kind == "adapter" else self.add_to(base.weights)

    def revert(self, finetuned: Mapping[str, Tensor]) -> LazyWeights:
        """Return the tensors of the base: finetuned minus delta."""
        return self.add_to(finetuned, -1.0)

    def adapter(self) -> LazyWeights:
        """Return the tensors of an adapter: origin plus delta."""
        layout = {name: (tuple(shape), self.dtype) for name, shape in self.shapes.items()}
        return LazyWeights(layout, lambda name: self.read(name) + self.origin)

    def add_to(self, weights: Mapping[str, Tensor], factor: float = 1.0) -> LazyWeights:
        """Return any model's tensors plus `factor` times the delta, in the wider of both types.

        Tensors without a delta are unchanged; rows that one of the two lacks count as zeros.

        Raises:
            UserError: the model lacks a tensor of the delta.
        """
        layout = read_layout(weights)
        missing = [name for name in self.shapes if name not in layout]
        if missing:
            raise UserError(f"the model has no tensor {missing[0]}.", fix="is it of this kind?")
        for name, shape in self.shapes.items():
            old, dtype = layout[name]
            count = [max(old[0], shape[0])] if shape else []
            layout[name] = ((*count, *old[1:]), torch.promote_types(dtype, self.dtype))

        def read(name: str) -> Tensor:
            if name not in self.shapes:
                return weights[name]
            shape = layout[name][0]
            change = pad_rows(self.read(name), shape)
            total = pad_rows(weights[name].to(torch.float64, copy=True), shape)
            return total.add_(change, alpha=factor)

        return LazyWeights(layout, read)

    def refuse_other(self, base: str, called: str) -> None:
        """Refuse a base with another fingerprint.

        Raises:
            UserError: the fingerprints differ.
        """
        if base != self.base:
            raise UserError(
                f"{called} is not the base this delta was taken from "
                f"(fingerprint {base}, not {self.base}).",
                fix="ftcli delta transfer moves a delta to another base, if that is meant",
            )


def sum_deltas(deltas: Sequence[Delta], weights: Sequence[float] | None = None) -> Delta:
    """Return the weighted sum of deltas of one base; all weights are 1 by default.

    Raises:
        UserError: their bases, kinds or tensors differ.
    """
    refuse_mixed(deltas)
    factors = [1.0] * len(deltas) if weights is None else list(weights)

    def read(name: str) -> Tensor:
        total = deltas[0].read(name) * factors[0]
        for delta, factor in zip(deltas[1:], factors[1:], strict=True):
            total += delta.read(name) * factor
        return total

    shown = " + ".join(
        f"{factor:.4g} ({'; '.join(delta.history)})"
        for delta, factor in zip(deltas, factors, strict=True)
    )
    return replace(
        deltas[0], read=read, history=(shown,), dtype=find_widest_dtype(d.dtype for d in deltas)
    )


def refuse_mixed(deltas: Sequence[Delta]) -> None:
    """Refuse deltas of different bases, kinds or tensors.

    Raises:
        UserError: bases, kinds or tensors differ.
    """
    first = deltas[0]
    for other in deltas[1:]:
        for what, first_value, other_value in (
            (f"base (fingerprint {first.base} and {other.base})", first.base, other.base),
            (f"kind ({first.kind} and {other.kind})", first.kind, other.kind),
            ("shape", dict(first.shapes), dict(other.shapes)),
        ):
            if first_value != other_value:
                raise UserError(
                    f"deltas of a different {what} cannot be put together.",
                    where="; ".join(steps[0] for steps in (first.history, other.history) if steps),
                    fix="take runs that began from the same model",
                )


def find_widest_dtype(dtypes: Iterator[torch.dtype]) -> torch.dtype:
    """Return the type to which all dtypes promote."""
    widest = next(dtypes)
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def pad_rows(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor with zero rows appended up to this shape."""
    if tuple(tensor.shape) == shape:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(shape[0] - tensor.shape[0], *shape[1:])])
