"""Measurements of the lq_lora recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def lq_lora_bits_per_weight(run: Path) -> float:
    """Stored bits a weight of the quantised matrices, scales included, in the formats that were chosen."""
    from ftcli.papers.lq_lora.method import lq_layers
    from ftcli.run.build import open_run

    bits = weights = 0
    for layer in lq_layers(open_run(run).model).values():
        packed = layer.packed()
        assert packed is not None
        rows, columns = packed.header[5:].tolist()
        bits += packed.format.count_bits(rows * columns)
        weights += rows * columns
    return bits / weights


@measure(exact=True)
def lq_lora_error_share(run: Path) -> float:
    """Squared error of Q + scale B A before training, as a share of that of quantisation alone in the same formats.

    Unweighted, summed over all matrices, from what the layers compute with (the hand-over included).
    """
    from ftcli.papers.lq_lora.method import lq_layers
    from ftcli.papers.lq_lora.normal_float import quantise
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    fresh.method.setup(fresh)
    base, ours, plain = fresh.model_source.load(), 0.0, 0.0
    for name, layer in lq_layers(fresh.model.get_base_model()).items():
        weight, packed = base.get_submodule(name).weight.detach().float(), layer.packed()
        weight = weight.T if layer.transposed else weight
        assert packed is not None
        ours += (weight - layer.compute_weight("default")).square().sum().item()
        plain += (weight - quantise(weight, packed.format).weight()).square().sum().item()
    return ours / plain
