"""CorDA (arXiv 2406.05223): LoRA initialised from a decomposition oriented by a layer's inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
#: Largest allowed ||C C^-1 - I||_F of a damped covariance and its computed inverse.
INVERSE_ERROR = 0.05


class Corda(ShiftedLora):
    """Train r components of each weight and freeze the others; further keys are peft.LoraConfig's.

    With C the covariance of a layer's inputs over a context, U S V^T = SVD(W C) and
    W = U S (V^T C^-1): the components are ordered by how much the context uses them.

    Args:
        mode: ipm (instruction-previewed) trains the first r components, those the context uses most;
            kpm (knowledge-preserved) trains the last r and so keeps frozen what the context uses.
        samples: rows (bins, where packing=bins) of the context.
        batch_size: rows a forward pass. Each row is rescaled separately, so that for the same rows
            only speed depends on it. At data.packing=none it also decides which rows are taken (see
            `ftcli.methods.calibration.calibration_batches`).
        damping: share of the mean of C's diagonal that is added to the diagonal; doubled until C can be
            inverted.
        calibration: data of the context, with the keys of the data group; null: the training data.
        cache: write covariances beside the token cache, in^2 * 4 bytes a layer (28 GB for Llama 2 7B).
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
        """Yield name, A0 [r, in] and B0 [out, r] of every layer."""
        measured = self.covariances(run)
        for name, layer in layers.items():
            covariance = measured.pop(name).to(weight_of(layer).device)
            parts = decompose(weight_of(layer).float(), covariance, self.damping)
            a, b = parts.factors(layer.r[ADAPTER], self.mode)
            root = layer.scaling[ADAPTER] ** 0.5  # so that scale * B0 A0 is the product of a and b
            yield name, a / root, b / root

    def covariances(self, run: Run) -> dict[str, Tensor]:
        """Return name -> covariance [in, in] of the inputs of each adapted layer, over the context."""
        data = self.calibration or run.data
        if data.cache_dir is None and run.data.cache_dir is not None:
            data = replace(data, cache_dir=run.data.cache_dir)
        layers = {n: layer.get_base_layer() for n, layer in lora_layers(run.model).items()}

        def measure() -> dict[str, Tensor]:
            drawn = calibration_batches(run, self.samples, self.batch_size, data=data)
            measured = input_covariance(run.model, layers, drawn, _forward(run), rescale_by_maximum)
            _refuse_unseen(layers, measured)
            return {name: moments.sequence_mean for name, moments in measured.items()}

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
        return covariances.load_or_measure(
            covariances.cache_file(data.cache_dir, layers, settings), measure
        )


class OrientedSVD(NamedTuple):
    """W = left diag(values) right with descending values; right is V^T C^-1."""

    left: Tensor  # [out, k], k = min(in, out)
    values: Tensor  # [k]
    right: Tensor  # [k, in]

    def factors(self, r: int, mode: Mode) -> tuple[Tensor, Tensor]:
        """Return A [r, in] and B [out, r] whose product is the first (ipm) or last (kpm) r components.

        Raises:
            UserError: r is above the number of components.
        """
        if r > len(self.values):
            raise UserError(
                f"r={r} is above the {len(self.values)} components of a layer's weight.",
                where="method.r",
                fix=f"method.r={len(self.values)}",
            )
        chosen = slice(0, r) if mode == "ipm" else slice(len(self.values) - r, None)
        root = self.values[chosen].sqrt()
        return root[:, None] * self.right[chosen], self.left[:, chosen] * root


def decompose(weight: Tensor, covariance: Tensor, damping: float = 0.01) -> OrientedSVD:
    """Return the context-oriented decomposition of W [out, in] by C [in, in], both float32.

    W is multiplied by C itself, not by its square root, as in the paper (equations 2 and 3).
    """
    damped_covariance, inverse = damp(covariance, damping)
    left, values, right = torch.linalg.svd(weight @ damped_covariance, full_matrices=False)
    return OrientedSVD(left, values, right @ inverse)


def damp(covariance: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Return C + damping * mean(diag C) * I and its inverse.

    Damping is doubled until the inverse is accurate to INVERSE_ERROR.

    Raises:
        UserError: the covariance is zero or not finite.
    """
    scale = covariance.diagonal().mean()
    if not (torch.isfinite(covariance).all() and scale > 0):
        raise UserError(
            "the covariance of a layer's inputs is zero or not finite.",
            where="method.samples",
            fix="raise method.samples, or model.dtype=float32",
        )
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    while True:
        full = covariance + damping * scale * identity
        inverse, failed = torch.linalg.inv_ex(full)
        if not failed and torch.dist(full @ inverse, identity) < INVERSE_ERROR:
            return full, inverse
        damping *= 2


def rescale_by_maximum(x: Tensor, owner: Tensor) -> Tensor:
    """Divide tokens [t, in] by |max| of the entries of their sequence (`owner` [t]).

    The maximum is that of the signed entries, not of their absolute values, as in the authors' code
    and PEFT's.
    """
    peaks = x.amax(1)
    largest = peaks.new_full((int(owner.max()) + 1,), float("-inf"))
    largest.scatter_reduce_(0, owner, peaks, "amax")
    return x / largest.abs()[owner][:, None]


def _forward(run: Run) -> Callable[[nn.Module, Batch], None]:
    """Return a function that runs a model up to its output layer on a batch, in the run's precision."""
    from ftcli.objectives.causal_lm import compute_hidden_and_head

    def forward(model: nn.Module, batch: Batch) -> None:
        with run.autocast():
            compute_hidden_and_head(model, batch, run.accelerator.device)

    return forward


def _refuse_unseen(layers: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    unseen = [name for name in layers if name not in measured]
    if unseen:
        raise UserError(
            f"no token of the context reaches {unseen[0]} ({len(unseen)} such layers).",
            where="method.target_modules",
            fix="leave these layers out, or raise method.samples",
        )
