"""LQ-LoRA as a method: calibration, the choice of formats, the decomposition, then LoRA on what remains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import quantisation_of, suggest_plain_weights
from ftcli.methods.calibration import calibration_batches, objective_loss, sum_gradients
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.papers.lq_lora.allocation import Candidates, allocate, measure_costs
from ftcli.papers.lq_lora.decomposition import Settings, decompose
from ftcli.papers.lq_lora.layer import LqLoraLinear
from ftcli.papers.lq_lora.normal_float import Format

if TYPE_CHECKING:
    from ftcli.core.run import Run


class LqLora(Peft):
    """Decompose every target into a quantised matrix and a low-rank one, and train the latter as LoRA.

    With one format and without Fisher information no data are needed and `prepare` decomposes; else
    `setup` does, on rows of the run, and again where a run is resumed, before the checkpoint's own
    matrices are loaded. Further keys are LqLoraConfig's.

    Args:
        bits: bits of a weight, 2, 3, 4 or 8. Where several are listed here or in the four keys below, every
            combination is a candidate, and an integer program chooses one for each matrix.
        scale_bits: bits of a block's scale.
        superscale: dtype of a superblock's scale: bf16, fp16 or fp32.
        block: weights that share a scale.
        superblock: scales that share a second scale.
        budget_bits: stored bits a weight on average, of all matrices together; asked for by several formats.
        iterations: of the decomposition at most; 0: quantisation alone, with LoRA's own start.
        cost_iterations: the same for each candidate of the cost table.
        oversampling: further vectors of the randomised decomposition.
        randomized: take it by torch.svd_lowrank; else the whole one.
        fisher_samples: training rows of which the squared gradient of each weighs the error; 0: unweighted.
        config_class: LqLoraConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: adapter weights in float32 also where the base has half precision.
    """

    quantisable: ClassVar[bool] = False
    formula = "r * sum(in + out) over the targets"

    def __init__(
        self,
        bits: Sequence[int] = (4,),
        scale_bits: Sequence[int] = (8,),
        superscale: Sequence[str] = ("fp32",),
        block: Sequence[int] = (64,),
        superblock: Sequence[int] = (256,),
        budget_bits: float | None = None,
        iterations: int = 100,
        cost_iterations: int = 100,
        oversampling: int = 10,
        randomized: bool = True,
        fisher_samples: int = 0,
        config_class: ClassPath = "ftcli.papers.lq_lora.layer.LqLoraConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(config_class, targets_strict, autocast_adapter_dtype, **options)
        candidates = Candidates(bits, scale_bits, superscale, block, superblock)
        try:
            self.formats = list(candidates.formats())
        except ValueError as error:
            raise UserError(f"{error}.", where="method") from error
        if (len(self.formats) > 1) != (budget_bits is not None):
            raise UserError(
                f"there are {len(self.formats)} formats to choose from, and budget_bits={budget_bits}.",
                where="method.budget_bits",
                fix="method.budget_bits=3 with several formats, or one value for each of bits, scale_bits, "
                "superscale, block and superblock",
            )
        self.budget_bits, self.fisher_samples = budget_bits, fisher_samples
        self.settings = Settings(iterations, oversampling, randomized)
        self.cost_settings = Settings(min(cost_iterations, iterations), oversampling, randomized)

    @property
    def keeps_base(self) -> bool:
        """False: with the adapter off the quantised matrices remain."""
        return False

    def prepare(self, model: Any) -> nn.Module:
        """Add LoRA to the targets, and decompose them where that needs no data.

        Raises:
            UserError: the base is quantised already, or an option does not fit it.
        """
        if quantisation_of(model) is not None:
            raise UserError(
                "LQ-LoRA quantises floating-point weights by itself, and this base is quantised already.",
                where="model.quantization",
                fix=suggest_plain_weights(model),
            )
        wrapped = super().prepare(model)
        layers = lq_layers(wrapped)
        if any(layer.dense.is_meta for layer in layers.values()):
            self._reserve(layers)
        elif self.budget_bits is None and not self.fisher_samples:
            self.decompose(layers, dict.fromkeys(layers, self.formats[0]), {})
        return wrapped

    def setup(self, run: Run) -> None:
        """Weigh, choose formats and decompose, where `prepare` has not."""
        layers = lq_layers(run.model)
        if all(layer.packed() is not None for layer in layers.values()):
            return
        fisher = sum_squared_gradients(run, layers, self.fisher_samples)
        self.decompose(layers, self.choose_formats(layers, fisher), fisher)

    def get_trained_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return A, B and the packed matrices by name; a layer that is not decomposed yet has no matrix."""
        return {name: t for name, t in super().get_trained_tensors(model).items() if t.numel()}

    def load_trained_tensors(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Load the matrices, also into layers that are not decomposed yet, and the adapter.

        Raises:
            UserError: names differ from those of this adapter.
        """
        for name, layer in lq_layers(model).items():
            prefix = f"{name}.lqlora_Q."
            parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if layer.packed() is None and parts:
                matrix: Any = layer.lqlora_Q[ADAPTER]
                matrix.load_parts(parts)
                layer.release_weight()
        super().load_trained_tensors(model, tensors)

    def choose_formats(
        self, layers: Mapping[str, LqLoraLinear], fisher: Mapping[str, Tensor]
    ) -> dict[str, Format]:
        """Return name -> format: the only one, or the integer program's choice under the budget."""
        if self.budget_bits is None:
            return dict.fromkeys(layers, self.formats[0])
        rows = []
        for name, layer in layers.items():
            weight, rank = layer.dense.detach(), layer.lqlora_A[ADAPTER].shape[0]
            rows.append(
                measure_costs(weight, self.formats, rank, fisher.get(name), self.cost_settings)
            )
        costs, sizes = (torch.stack(column) for column in zip(*rows, strict=True))
        budget = self.budget_bits * sum(layer.dense.numel() for layer in layers.values())
        chosen = allocate(costs, sizes, budget)
        return {name: self.formats[i] for name, i in zip(layers, chosen, strict=True)}

    def decompose(
        self,
        layers: Mapping[str, LqLoraLinear],
        formats: Mapping[str, Format],
        fisher: Mapping[str, Tensor],
    ) -> None:
        """Decompose each layer in its format and hand the parts over to it."""
        for name, layer in layers.items():
            weight, rank = layer.dense.detach(), layer.lqlora_A[ADAPTER].shape[0]
            _refuse_wide(name, rank, weight)
            of_layer = fisher.get(name)
            of_layer = None if of_layer is None else of_layer.to(weight.device)
            parts = decompose(weight, formats[name], rank, of_layer, self.settings)
            layer.store(ADAPTER, parts, start_at_product=self.settings.iterations > 0)

    def _reserve(self, layers: Mapping[str, LqLoraLinear]) -> None:
        """Put the sizes of packed matrices in the place of weights on the meta device, for plans."""
        bits = self.budget_bits or self.formats[0].bits_per_weight
        for layer in layers.values():
            matrix: Any = layer.lqlora_Q[ADAPTER]
            matrix.reserve(layer.dense.shape, bits)
            layer.release_weight()


def lq_layers(model: nn.Module) -> dict[str, LqLoraLinear]:
    """Return name in the wrapped model -> layer."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LqLoraLinear)}


def sum_squared_gradients(
    run: Run, layers: Mapping[str, LqLoraLinear], samples: int
) -> dict[str, Tensor]:
    """Return name -> sum over training rows of the squared gradient of the row's mean loss, float32 [out, in].

    One row at a time: the square of a batch's mean gradient is another object. Dropout is off, other than
    in the published code; models of the paper have none. Empty for 0 samples; a layer that no row reaches
    is absent.
    """
    weights: dict[str, Any] = {
        name: layer.get_base_layer().weight for name, layer in layers.items()
    }
    total: dict[str, Tensor] = {}
    for batch in calibration_batches(run, samples) if samples else ():
        gradients = sum_gradients(run.model, weights, [batch], objective_loss(run, [batch]))
        for name, gradient in gradients.items():
            square = gradient.square()
            total[name] = total[name].add_(square) if name in total else square
    return {name: t.T if layers[name].transposed else t for name, t in total.items()}


def _refuse_wide(name: str, r: int, weight: Tensor) -> None:
    if r > min(weight.shape):
        raise UserError(
            f"r={r} is more than the rank of {name.removeprefix('base_model.model.')} "
            f"({weight.shape[0]} x {weight.shape[1]}).",
            where="method.r",
            fix=f"method.r={min(weight.shape)}",
        )
