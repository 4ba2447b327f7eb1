"""Write a LoRA adapter as GGUF, which llama.cpp adds to the GGUF of its base.

llama.cpp's own script copies `lora_alpha` and supports neither rsLoRA nor patterns of alpha or rank; its
runtime multiplies by alpha / rank (llama-adapter.h). Here the change of every weight comes from PEFT, and
the written factors give that change after the permutations of the converter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.serving.gguf import convert, find_converter_class

if TYPE_CHECKING:
    from ftcli.core.run import Run

MERGE = "ftcli export RUN --to gguf, which merges the adapter"
TOLERANCE = (
    1e-4  # allowed difference of two computations of a change, as a share of its largest entry
)


@dataclass(frozen=True)
class Factors:
    """The change of one weight: change [m, n] = left [m, r] @ right [r, n], scale included in left."""

    left: Tensor
    right: Tensor
    change: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Columns of `left`."""
        return self.left.shape[1]


def read_factors(run: Run) -> dict[str, Factors]:
    """Return name of a base weight -> factors of the change by LoRA.

    Raises:
        UserError: the adapter is not made of products of two matrices only.
    """
    from peft.tuners.lora import LoraLayer

    kept = ("lora_A.weight", "lora_B.weight")
    other_tensors = [
        name for name in run.method.get_trained_tensors(run.model) if not name.endswith(kept)
    ]
    if other_tensors:
        raise _adapter_error(f"it trains {other_tensors[0]!r} ({len(other_tensors)} such tensors)")
    factors_by_weight = {}
    for name, layer in run.model.named_modules():
        if isinstance(layer, LoraLayer):
            factors_by_weight[f"{name.removeprefix('base_model.model.')}.weight"] = _read_layer(
                name, layer
            )
    if not factors_by_weight:
        raise _adapter_error("it is no LoRA")
    return factors_by_weight


def _read_layer(name: str, layer: Any) -> Factors:
    from peft.tuners.lora import Linear

    adapter = next(iter(layer.lora_A), None)
    plain = adapter is not None and not getattr(layer, "lora_variant", None)
    if not plain or not hasattr(layer, "get_delta_weight") or layer.lora_bias[adapter]:
        raise _adapter_error(f"{name} is a {type(layer).__name__} of another form")
    scale = float(layer.scaling[adapter])
    a, b = layer.lora_A[adapter].weight.float().cpu(), layer.lora_B[adapter].weight.float().cpu()
    if a.ndim != 2 or b.ndim != 2:
        raise _adapter_error(f"{name} is a {type(layer).__name__}")
    left, right = b * scale, a
    if isinstance(layer, Linear) and layer.fan_in_fan_out:  # the weight is stored transposed
        left, right = a.T * scale, b.T
    change = layer.get_delta_weight(adapter).detach().float().cpu()
    if not is_close(left @ right, change):
        raise _adapter_error(f"the change of {name} is no plain product")
    return Factors(left.detach(), right.detach(), change, scale)


def write_adapter(trained: dict[str, Factors], base: Path, base_file: Path, target: Path) -> None:
    """Write the adapter for the base in the folder `base` and its GGUF `base_file`.

    Raises:
        UserError: a weight is missing in the base's GGUF, or the converter rearranges it so that it is
            no product of two matrices.
    """
    import gguf

    library = find_converter_class(base)
    known = {tensor.name for tensor in gguf.GGUFReader(base_file).tensors}
    first = next(iter(trained.values()))
    alpha = first.scale * first.rank or 1.0

    class Adapter(library):  # type: ignore[valid-type, misc]
        """The converter's class for the base, changed to write the factors."""

        model_arch = library.model_arch

        def set_vocab(self) -> None:
            """Do nothing: an adapter has no vocabulary."""

        def set_type(self) -> None:
            """Write the type `adapter`, `lora`, that llama.cpp expects."""
            self.gguf_writer.add_type(gguf.GGUFType.ADAPTER)
            self.gguf_writer.add_string(gguf.Keys.Adapter.TYPE, "lora")

        def set_gguf_parameters(self) -> None:
            """Write alpha, which llama.cpp divides by the rank."""
            self.gguf_writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)

        def generate_extra_tensors(self) -> Iterator[tuple[str, Tensor]]:
            """Return no extra tensors."""
            return iter(())

        def get_tensors(self) -> Iterator[tuple[str, Tensor]]:
            """Yield the change of each weight under its name."""
            yield from ((name, factors.change) for name, factors in trained.items())

        def modify_tensors(
            self, data_torch: Tensor, name: str, bid: int | None
        ) -> Iterator[tuple[str, Tensor]]:
            """Yield both factors, rearranged as the converter rearranges the weight."""

            def rearrange(tensor: Tensor) -> list[tuple[str, Tensor]]:
                return list(super(Adapter, self).modify_tensors(tensor.contiguous(), name, bid))

            factors = trained[name]
            for gguf_name, left, right in _rearrange_factors(name, factors, rearrange):
                if gguf_name not in known:
                    raise _adapter_error(
                        f"the base's GGUF has no {gguf_name} ({name}): it may be tied"
                    )
                yield f"{gguf_name}.lora_a", right
                yield (
                    f"{gguf_name}.lora_b",
                    left * (factors.rank / alpha),
                )  # llama.cpp: alpha / rank

    convert(lambda file: Adapter(base, gguf.LlamaFileType.ALL_F32, file, eager=True), target)


def _rearrange_factors(
    name: str, factors: Factors, rearrange: Callable[[Tensor], list[tuple[str, Tensor]]]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the GGUF names and factors into which the converter turns one change.

    Matrices of row and column numbers are converted alike, and show the origin of every entry.
    """
    rows, columns = (torch.arange(size).float() for size in factors.change.shape)
    places = torch.meshgrid(rows, columns, indexing="ij")
    changes, *numbers = (rearrange(tensor) for tensor in (factors.change, *places))
    if not changes:
        raise _adapter_error(f"llama.cpp's converter does not keep {name} by itself")
    for (gguf_name, change), (_, row), (_, column) in zip(changes, *numbers, strict=True):
        yield gguf_name, *permute_factors(factors, change, row, column)


def permute_factors(
    factors: Factors, change: Tensor, row: Tensor, column: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the factors of a rearranged change.

    Args:
        change: the change as the converter rearranged it.
        row, column: former row and column of each entry.

    Raises:
        UserError: the rearrangement is not one of rows and columns.
    """
    if change.ndim == 2 and row.shape == column.shape == change.shape:
        r = row.round().long().clamp(0, factors.left.shape[0] - 1)
        c = column.round().long().clamp(0, factors.right.shape[1] - 1)
        for left, right in (
            (factors.left[r[:, 0]], factors.right[:, c[0]]),
            (factors.right.T[c[:, 0]], factors.left.T[:, r[0]]),
        ):
            if is_close(left @ right, change):
                return left, right
    raise _adapter_error(
        "llama.cpp's converter rearranges a weight in a way that factors cannot follow"
    )


def is_close(change: Tensor, expected: Tensor) -> bool:
    """Whether two changes are equal up to rounding."""
    if change.shape != expected.shape:
        return False
    largest = expected.abs().max().item()
    return (change - expected).abs().max().item() <= TOLERANCE * largest


def _adapter_error(why: str) -> UserError:
    return UserError(
        f"this adapter cannot be written as a LoRA of llama.cpp: {why}.", "--adapter", MERGE
    )
