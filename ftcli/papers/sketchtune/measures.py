"""Measurements of the sketchtune recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor


@measure
def sketch_error_over_rounding(run: Path) -> float:
    """Error of the untrained sketch, weighted by the inputs, as a share of that of rounding each row.

    The error is trace(E C E^T) summed over the layers, with C the covariance of a layer's inputs in the
    unquantised model over the calibration rows. Rounding is to the nearest of an even grid of as many bits
    from the least to the largest weight of a row.
    """
    return _error_share(run, round_rows)


def round_rows(weight: Tensor, bits: int) -> Tensor:
    """Round each row of a weight [out, in] to 2^bits evenly spaced values from its least to its largest."""
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-30)  # 0 where all weights of a row are equal
    return low + ((weight - low) / step).round() * step


@measure
def sketch_error_over_k_means(run: Path) -> float:
    """The same error as a share of that of k-means without calibration, with as many values."""
    from ftcli.papers.sketchtune.sketch import SketchSettings, learn_sketch

    return _error_share(
        run, lambda weight, bits: learn_sketch(weight, None, SketchSettings(bits)).weight()
    )


@measure
def sketch_least_delta_rank(run: Path) -> float:
    """Least numerical rank among the changes of all weights that training has made."""
    import torch

    from ftcli.papers.sketchtune.method import sketch_layers
    from ftcli.run.build import open_run

    ranks = []
    for layer in sketch_layers(open_run(run).model).values():
        start = layer.compute_base_weight()
        assert start is not None
        ranks.append(int(torch.linalg.matrix_rank(layer.compute_weight("default") - start)))
    return float(min(ranks))


@measure(exact=True)
def sketch_gb_of_llama_7b(run: Path) -> float:
    """Size of LLaMA 7B under the run's method in GB: codes, values and everything else in 16 bits.

    Counted on the meta device.
    """
    import torch

    from ftcli.config import build
    from ftcli.models.causal_lm import CausalLMSource
    from ftcli.reproduce.probe import rebuild_run

    source = CausalLMSource("owner/name", architecture="llama1_7b", dtype="bfloat16")
    config: Any = rebuild_run(run).config["method"]
    base: Any = source.build_meta_model()
    model = build(dict(config)).prepare(base.to(torch.bfloat16))
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return sum(p.numel() * p.element_size() for p in frozen) / 1e9


def _error_share(run: Path, compress: Any) -> float:
    """Return the weighted error of the run's untrained sketches over that of (weight, bits) -> weight."""
    from ftcli.methods.calibration import calibration_batches, input_covariance
    from ftcli.papers.sketchtune.method import forward_up_to, sketch_layers
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    layers, bits = sketch_layers(fresh.model), fresh.model.peft_config["default"].bits
    weights = {name: layer.dense.detach().float().clone() for name, layer in layers.items()}
    bare = {name: layer.get_base_layer() for name, layer in layers.items()}
    batches = calibration_batches(fresh, fresh.method.samples, fresh.method.batch_size)
    measured = input_covariance(fresh.model, bare, batches, forward_up_to(None, fresh))
    fresh.method.setup(fresh)
    ours = other = 0.0
    for name, layer in layers.items():
        covariance = measured[name].mean
        ours += _error(weights[name] - layer.compute_weight("default"), covariance)
        other += _error(weights[name] - compress(weights[name], bits), covariance)
    return ours / other


def _error(off: Tensor, covariance: Tensor) -> float:
    return float((off @ covariance * off).sum())
