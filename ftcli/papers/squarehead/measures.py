"""Measurements of the squarehead recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor, nn

REPEATS = 15
#: (out, in) of a Llama-7B MLP's down projection, which a token's decoding reads once.
LARGE = (4096, 11008)


@measure(exact=True)
def zeros_moved(run: Path) -> float:
    """Return how many weights that are 0 before training are not after it, or the other way round."""
    import torch

    from ftcli.papers.squarehead.method import list_layers
    from ftcli.run.build import open_run

    masks, trained = _fresh_masks(run), open_run(run).model
    layers = {name: layer for block in list_layers(trained) for name, layer in block.items()}
    moved = [torch.count_nonzero((layers[n].weight != 0) != mask) for n, mask in masks.items()]
    return float(sum(moved))


@measure(exact=True)
def trained_sparsity(run: Path) -> float:
    """Return the share of zeros among the weights of the pruned layers after training."""
    from ftcli.papers.squarehead.method import zero_share

    return zero_share({name: layer.weight != 0 for name, layer in _pruned_layers(run).items()})


@measure(exact=True)
def bitmask_share(run: Path) -> float:
    """Return the bytes of the pruned layers as a bit a weight and 16 bits a non-zero, over those in 16 bits."""
    weights = [layer.weight for layer in _pruned_layers(run).values()]
    stored = sum((weight.numel() + 7) // 8 + 2 * int((weight != 0).sum()) for weight in weights)
    return stored / sum(2 * weight.numel() for weight in weights)


@measure(exact=True)
def bitmask_gb_of_mpt_7b(run: Path) -> float:
    """Return the size of MPT-7B in GB at the run's sparsity: linears of blocks by bitmask, the rest in 16 bits.

    Counted on the meta device from the architecture of mosaicml/mpt-7b.
    """
    from ftcli.models.anatomy import Anatomy

    sparsity, model = _sparsity_of(run), _mpt_7b()
    pruned = sum(linear.weights for linear in Anatomy(model).block_linears)
    rest = sum(p.numel() for p in model.parameters()) - pruned
    return (pruned * (2 * (1 - sparsity) + 1 / 8) + 2 * rest) / 1e9


@measure(exact=True)
def mpt_7b_parameters(run: Path) -> float:
    """Return the number of parameters of MPT-7B, counted on the meta device."""
    return float(sum(p.numel() for p in _mpt_7b().parameters()))


@measure
def sparse_forward_speedup(run: Path) -> float:
    """Return the time of a forward pass of one token by dense weights over that by sparse ones (torch CSR).

    Medians over alternating passes of the trained model, on one thread, with its pruned layers in torch's
    compressed rows.
    """
    from ftcli.run.build import open_run

    dense, sparse = open_run(run).model.eval(), compress_layers(open_run(run).model.eval())
    ids = _token_ids(dense, 1)
    return compare_times(lambda: dense(input_ids=ids), lambda: sparse(input_ids=ids))


@measure
def sparse_layer_speedup(run: Path) -> float:
    """Return the same for one layer of 4096 x 11008 at the run's sparsity, whose zeros are placed at random."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(LARGE, generator=generator)
    weight *= torch.rand(LARGE, generator=generator) >= _sparsity_of(run)
    x, rows = torch.randn(LARGE[1], generator=generator), weight.to_sparse_csr()
    return compare_times(lambda: torch.mv(weight, x), lambda: torch.mv(rows, x))


@measure(exact=True)
def sparse_forward_difference(run: Path) -> float:
    """Return the largest difference of a logit between the trained model with dense and with sparse weights."""
    import torch

    from ftcli.run.build import open_run

    dense, sparse = open_run(run).model.eval(), compress_layers(open_run(run).model.eval())
    ids = _token_ids(dense, 16)
    with torch.no_grad():
        return float((dense(input_ids=ids).logits - sparse(input_ids=ids).logits).abs().max())


def compress_layers(model: Any) -> Any:
    """Replace the pruned layers of a model by ones with compressed rows, in place."""
    from ftcli.papers.squarehead.method import find_masks, list_layers
    from ftcli.papers.squarehead.sparse_linear import SparseLinear

    layers = {name: layer for block in list_layers(model) for name, layer in block.items()}
    for name in find_masks(layers, 0.1):
        model.set_submodule(name, SparseLinear(layers[name]))
    return model


def compare_times(first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """Return the median time of a call of `first` over that of `second`, on one thread and in turns."""
    import torch

    threads = torch.get_num_threads()
    times: tuple[list[float], list[float]] = ([], [])
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for turn in range(REPEATS + 3):
                for call, kept in zip((first, second), times, strict=True):
                    start = time.perf_counter()
                    call()
                    if turn >= 3:  # the first ones allocate
                        kept.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[0]) / statistics.median(times[1])


def _pruned_layers(run: Path) -> dict[str, nn.Linear]:
    from ftcli.papers.squarehead.method import find_masks, list_layers
    from ftcli.run.build import open_run

    layers = {n: li for block in list_layers(open_run(run).model) for n, li in block.items()}
    return {name: layers[name] for name in find_masks(layers, 0.1)}


def _fresh_masks(run: Path) -> dict[str, Tensor]:
    """Return the masks that the run began with."""
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    method: Any = fresh.method
    method.setup(fresh)
    masks: dict[str, Tensor] = method.masks
    return masks


def _sparsity_of(run: Path) -> float:
    from ftcli.reproduce.probe import rebuild_run

    method: Any = rebuild_run(run).method
    return float(method.pattern.sparsity)


def _token_ids(model: Any, length: int) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (1, length), generator=generator)


def _mpt_7b() -> Any:
    import torch
    from transformers import MptConfig, MptForCausalLM

    with torch.device("meta"):
        return MptForCausalLM(
            MptConfig(d_model=4096, n_layers=32, n_heads=32, vocab_size=50432, max_seq_len=2048)
        )
