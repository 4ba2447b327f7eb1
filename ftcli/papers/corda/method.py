"""CorDA (arXiv 2406.05223): LoRA from a decomposition that is oriented by what enters a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.methods.calibration import Batch, calibration_batches, input_covariance
from ftcli.methods.peft import ADAPTER
from ftcli.methods.shifted import ShiftedLora, lora_layers, weight_of
from ftcli.papers.corda import covariances

if TYPE_CHECKING:
    from ftcli.core.run import Run

Mode = Literal["kpm", "ipm"]
#: What is left of the identity when a damped covariance is inverted, at most (Frobenius norm).
INVERSE_ERROR = 0.05


class Corda(ShiftedLora):
    """Some components of each weight are trained, the rest is frozen; further keys are peft.LoraConfig's.

    With C the covariance of a layer's inputs, U S V^T = SVD(W C) and W = U S (V^T C^-1): the
    components are ordered by how much they matter to that context.

    Args:
        mode: ipm trains the first r components, those the context uses most (instruction-previewed);
            kpm the last r, so that what it uses stays frozen (knowledge-preserved).
        samples: rows (bins, where packing=bins) of the context.
        batch_size: rows a forward pass. Each row is rescaled by itself, so that it decides speed alone
            where the rows are the same ones; at data.packing=none it also decides which rows those are
            (see `calibration.batches`).
        damping: share of the mean of C's diagonal that is added to it; doubled until C inverts.
        calibration: the context, with the keys of the data group; null: the training data.
        cache: keep covariances beside the token cache; in^2 * 4 bytes a layer (28 GB for Llama 2 7B).
        config_class: peft.LoraConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: adapter weights in float32 also where the base has half precision.
    """

    def __init__(
        self,
        mode: Mode = "ipm",
        samples: int = 256,
        batch_size: int = 1,
        damping: float = 0.01,
        calibration: Data | None = None,
        cache: bool = True,
        config_class: ClassPath = "peft.LoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        self.mode, self.samples, self.batch_size = mode, samples, batch_size
        self.damping, self.cache = damping, cache
        # a mapping of its keys, as YAML gives it, needs no _target_
        self.calibration = Data(**calibration) if isinstance(calibration, dict) else calibration

    def factors(self, run: Run, layers: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """A0 and B0 of every layer."""
        found = self.covariances(run)
        for name, layer in layers.items():
            covariance = found.pop(name).to(weight_of(layer).device)
            parts = oriented(weight_of(layer).float(), covariance, self.damping)
            a, b = parts.factors(layer.r[ADAPTER], self.mode)
            share = layer.scaling[ADAPTER] ** 0.5  # of the scale that each factor makes up for
            yield name, a / share, b / share

    def covariances(self, run: Run) -> dict[str, Tensor]:
        """Covariance [in, in] of the inputs of every adapted layer, over the context."""
        data = self.calibration or run.data
        if data.cache_dir is None and run.data.cache_dir is not None:
            data = replace(data, cache_dir=run.data.cache_dir)
        layers = {n: layer.get_base_layer() for n, layer in lora_layers(run.model).items()}

        def measure() -> dict[str, Tensor]:
            drawn = calibration_batches(run, self.samples, self.batch_size, data=data)
            found = input_covariance(run.model, layers, drawn, _forward(run), by_maximum)
            _refuse_unseen(layers, found)
            return {name: one.sequence_mean for name, one in found.items()}

        if not self.cache:
            return measure()
        settings = {
            "rows": data.prepare("train", run.tokenizer).fingerprint,
            "packing": [data.packing, data.max_length],
            "samples": self.samples,
            "batch_size": self.batch_size,
            "seed": run.seed,
            "precision": run.trainer.precision,
        }
        return covariances.kept(covariances.place(data.cache_dir, layers, settings), measure)


class Oriented(NamedTuple):
    """W = left diag(values) right, the values falling; right is V^T C^-1."""

    left: Tensor  # [out, k], k = min(in, out)
    values: Tensor  # [k]
    right: Tensor  # [k, in]

    def factors(self, r: int, mode: Mode) -> tuple[Tensor, Tensor]:
        """A [r, in] and B [out, r] with B A = the first (ipm) or last (kpm) r components.

        Raises:
            UserError: there are no r components.
        """
        if r > len(self.values):
            raise UserError(
                f"r={r}, and a layer has {len(self.values)} components.",
                where="method.r",
                fix=f"method.r={len(self.values)}",
            )
        chosen = slice(0, r) if mode == "ipm" else slice(len(self.values) - r, None)
        root = self.values[chosen].sqrt()
        return root[:, None] * self.right[chosen], self.left[:, chosen] * root


def oriented(weight: Tensor, covariance: Tensor, damping: float = 0.01) -> Oriented:
    """The context-oriented decomposition of W [out, in] by C [in, in], both float32.

    It takes C itself and not its root, as the paper does (equations 2 and 3).
    """
    damped_covariance, inverse = damped(covariance, damping)
    left, values, right = torch.linalg.svd(weight @ damped_covariance, full_matrices=False)
    return Oriented(left, values, right @ inverse)


def damped(covariance: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """C + damping * mean(diag C) * I and its inverse; damping is doubled until that is one.

    Raises:
        UserError: the covariance is zero or not finite.
    """
    scale = covariance.diagonal().mean()
    if not (torch.isfinite(covariance).all() and scale > 0):
        raise UserError(
            "the covariance of a layer's inputs is zero or not finite.", "method.samples"
        )
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    while True:
        full = covariance + damping * scale * identity
        inverse, failed = torch.linalg.inv_ex(full)
        if not failed and torch.dist(full @ inverse, identity) < INVERSE_ERROR:
            return full, inverse
        damping *= 2


def by_maximum(x: Tensor, owner: Tensor) -> Tensor:
    """Tokens [t, in] over the absolute value of the largest entry of their sequence.

    Of the signed entries, as in the authors' code and PEFT's, and not the largest absolute value.
    """
    peaks = x.amax(1)
    largest = peaks.new_full((int(owner.max()) + 1,), float("-inf"))
    largest.scatter_reduce_(0, owner, peaks, "amax")
    return x / largest.abs()[owner][:, None]


def _forward(run: Run) -> Any:
    """The model up to its output layer on a packed or padded batch, in the run's precision."""
    from ftcli.objectives.causal_lm import final_hidden

    def forward(model: nn.Module, batch: Batch) -> None:
        with run.autocast():
            final_hidden(model, batch, run.accelerator.device)

    return forward


def _refuse_unseen(layers: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    unseen = [name for name in layers if name not in found]
    if unseen:
        raise UserError(
            f"no token of the context reaches {unseen[0]} ({len(unseen)} such layers).",
            where="method.target_modules",
            fix="leave them out, or raise method.samples",
        )
