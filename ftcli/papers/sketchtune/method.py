"""SketchTune as a method: sketches are learned block by block on rows of the run, then their values are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ftcli.config.classpath import ClassPath
from ftcli.core.errors import UserError
from ftcli.methods.base import quantisation_of, suggest_plain_weights
from ftcli.methods.calibration import Batch, calibration_batches, input_covariance
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.models.anatomy import Anatomy
from ftcli.papers.sketchtune.layer import SketchLinear
from ftcli.papers.sketchtune.sketch import SketchSettings, learn_sketch

if TYPE_CHECKING:
    from ftcli.core.run import Run


class SketchTune(Peft):
    """Replace every target by codes into a few values of each row, and train the values.

    Where rows calibrate (`samples`), `setup` learns the sketches, and does so again where a run is resumed,
    before the checkpoint's own are loaded; else `prepare` does. Further keys are SketchConfig's.

    Args:
        samples: training rows (bins, where packing=bins) over which inputs of the layers are measured; 0:
            none, so that values are those of plain k-means.
        batch_size: rows a forward pass of calibration; at data.packing=none it also decides which rows are
            taken (see `ftcli.methods.calibration.calibration_batches`).
        exponent: of the weight of a column in k-means, U_jj^-exponent with U^T U the inverse Hessian.
        damp: share of the mean of the Hessian's diagonal that is added to the diagonal.
        error_feedback: correct later columns for the error of earlier ones before they are coded.
        config_class: SketchConfig or a subclass of it.
        targets_strict: refuse names of modules that match nothing in the model.
        autocast_adapter_dtype: has no effect; what is trained is always float32.
    """

    quantisable: ClassVar[bool] = False
    formula = "2^bits * groups_per_row * out summed over the targets"

    def __init__(
        self,
        samples: int = 128,
        batch_size: int = 1,
        exponent: float = 4.0,
        damp: float = 0.1,
        error_feedback: bool = True,
        config_class: ClassPath = "ftcli.papers.sketchtune.layer.SketchConfig",
        targets_strict: bool = True,
        autocast_adapter_dtype: bool = True,
        **options: Any,
    ) -> None:
        # values of the untrained sketch stay as they are stored
        super().__init__(config_class, targets_strict, False, **options)
        self.samples, self.batch_size = samples, batch_size
        self.exponent, self.damp = exponent, damp
        self.error_feedback = error_feedback

    @property
    def keeps_base(self) -> bool:
        """False: with the adapter off the untrained sketch remains."""
        return False

    def prepare(self, model: Any) -> nn.Module:
        """Add an adapter to the targets, and learn their sketches where that needs no data.

        Raises:
            UserError: the base is quantised already, or an option does not fit it.
        """
        if quantisation_of(model) is not None:
            raise UserError(
                "SketchTune compresses floating-point weights by itself, and this base is quantised already.",
                where="model.quantization",
                fix=suggest_plain_weights(model),
            )
        wrapped = super().prepare(model)
        layers = sketch_layers(wrapped)
        if any(layer.dense.is_meta for layer in layers.values()):
            for layer in layers.values():
                layer.mark_sketched(ADAPTER)
        elif not self.samples:
            self.learn(wrapped, layers, {})
        return wrapped

    def setup(self, run: Run) -> None:
        """Learn the sketches block by block; inputs of a block come from the sketches of those before it.

        Raises:
            UserError: no calibration row reaches a target.
        """
        layers = sketch_layers(run.model)
        missing = {n: layer for n, layer in layers.items() if ADAPTER not in layer.sketched}
        for block, group in group_by_block(run.model, missing):
            bare = {name: layer.get_base_layer() for name, layer in group.items()}
            batches = calibration_batches(run, self.samples, self.batch_size)
            measured = input_covariance(run.model, bare, batches, forward_up_to(block, run))
            _refuse_unseen(group, measured)
            self.learn(run.model, group, {name: m.mean for name, m in measured.items()})

    def learn(
        self, model: Any, layers: Mapping[str, SketchLinear], covariances: Mapping[str, Tensor]
    ) -> None:
        """Learn a sketch of each layer and hand it over, with k-means seeded from torch's generator."""
        config = model.peft_config[ADAPTER]
        settings = SketchSettings(
            config.bits, config.groups_per_row, self.exponent, self.damp, self.error_feedback
        )
        for name, layer in layers.items():
            generator = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
            layer.store(
                ADAPTER, learn_sketch(layer.dense, covariances.get(name), settings, generator)
            )


def sketch_layers(model: nn.Module) -> dict[str, SketchLinear]:
    """Return name in the wrapped model -> layer."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SketchLinear)}


def group_by_block(
    model: nn.Module, layers: Mapping[str, SketchLinear]
) -> Iterator[tuple[nn.Module | None, dict[str, SketchLinear]]]:
    """Yield each block with its layers, in the order of the model, then None with those outside of blocks."""
    rest = dict(layers)
    for name, block in Anatomy(model).blocks:
        inside = {n: rest.pop(n) for n in list(rest) if f".{name}." in f".{n}"}
        if inside:
            yield block, inside
    if rest:
        yield None, rest


class _EndOfBlock(Exception):
    """Ends a forward pass whose rest nobody needs."""


def forward_up_to(block: nn.Module | None, run: Run) -> Callable[[nn.Module, Batch], None]:
    """Return a function that runs a model on a batch to the end of a block, in the run's precision.

    Args:
        block: None: up to the output layer.
    """
    from ftcli.objectives.causal_lm import compute_hidden_and_head

    def stop(*_: Any) -> None:
        raise _EndOfBlock

    def forward(model: nn.Module, batch: Batch) -> None:
        alone = batch.get("reading") == "alone"  # several passes a batch
        hook = None if block is None or alone else block.register_forward_hook(stop)
        try:
            with run.autocast():
                compute_hidden_and_head(model, batch, run.accelerator.device)
        except _EndOfBlock:
            pass
        finally:
            if hook is not None:
                hook.remove()

    return forward


def _refuse_unseen(layers: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    unseen = [name for name in layers if name not in measured]
    if unseen:
        raise UserError(
            f"no token of the calibration rows reaches {unseen[0]} ({len(unseen)} such layers).",
            where="method.target_modules",
            fix="leave these layers out, or method.samples=0",
        )
