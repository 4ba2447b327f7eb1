"""Measurements of the compeft recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from ftcli.deltas.delta import Delta
    from ftcli.deltas.ternary import Ternary

DENSITIES = (0.05, 0.2, 0.5)
DENSITY = 0.2
SPARSE = 0.05
SCALES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
QLORA_7B_ENTRIES = 159_907_840
CANDIDATES = (0.2, 0.3, 0.5)


@measure(exact=True)
def compeft_faults(run: Path) -> float:
    """Number of failed checks over three densities: int(d k) entries kept, of one size std, the largest, signs and file exact."""
    import numpy as np
    import torch

    from ftcli.deltas import ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import analyse_run

    before = torch.cat(list(analyse_run(run).delta.flat()))
    faults: list[bool] = []
    for density in DENSITIES:
        compressed, coded = compeft.compress(analyse_run(run).delta, density)
        after = torch.cat(list(compressed.flat()))
        kept, stored = after != 0, ternary.decode(ternary.encode(coded))
        expected = np.float32(before.std().item())
        faults += [
            int(kept.sum()) != int(len(before) * density),
            len(after[kept].abs().unique()) != 1,
            bool(abs(coded.scale / expected - 1) > 1e-6),
            bool(before[kept].abs().min() < before[~kept].abs().max()),
            not torch.equal(after[kept].sign(), before[kept].sign()),
            not np.array_equal(stored.positions, coded.positions),
            not np.array_equal(stored.negative, coded.negative),
        ]
    return float(sum(faults))


@measure
def compeft_loss_ratio(run: Path) -> float:
    """Test loss with the ternary adapter at 20 % over that with the adapter as trained."""
    from ftcli.papers.compeft.compression import tune_scale
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    return (
        analysis.loss(tune_scale(analysis.delta, [DENSITY], analysis.loss)[0])
        / analysis.trained_loss
    )


@measure
def compeft_over_golomb(run: Path) -> float:
    """Bytes of the ternary file, header included, over d * k * (gap bits + 1) / 8, at 20 %."""
    from ftcli.deltas import ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import analyse_run

    coded = compeft.compress(analyse_run(run).delta, DENSITY)[1]
    return len(ternary.encode(coded)) * 8 / (coded.entries * ternary.golomb_rate(DENSITY))


@measure
def compeft_over_pruned(run: Path) -> float:
    """Test loss of ComPEFT at 5 %, its scale chosen on held-out rows, minus that of unscaled pruning."""
    from ftcli.deltas.magnitudes import prune_delta
    from ftcli.papers.compeft.compression import tune_scale
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    return analysis.loss(tune_scale(analysis.delta, [SPARSE], analysis.loss)[0]) - analysis.loss(
        prune_delta(analysis.delta, SPARSE)
    )


@measure
def compeft_over_random(run: Path) -> float:
    """Test loss with signs of the largest 5 % minus that with as many random entries, scales tuned alike."""
    from ftcli.papers.compeft.compression import tune_scale
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    largest, drawn = (
        analysis.loss(tune_scale(analysis.delta, [SPARSE], analysis.loss, r)[0])
        for r in ("std", "random")
    )
    return largest - drawn


@measure
def compeft_over_scaled_pruned(run: Path) -> float:
    """Test loss of ComPEFT at 5 % minus that of pruning, each with the best of eight scales on held-out rows."""
    from ftcli.deltas.magnitudes import prune_delta
    from ftcli.papers.compeft.compression import tune_scale
    from ftcli.reproduce.deltas import VALIDATION, analyse_run, find_minimum

    analysis = analyse_run(run)
    kept = prune_delta(analysis.delta, SPARSE)
    scale = find_minimum(lambda value: analysis.loss(kept.scale(value), VALIDATION), SCALES)
    ternary = tune_scale(analysis.delta, [SPARSE], analysis.loss)[0]
    return analysis.loss(ternary) - analysis.loss(kept.scale(scale))


@measure
def compeft_over_scaled_stc(run: Path) -> float:
    """Test loss of ComPEFT at 5 % minus that of STC, each with the best of eight scales on held-out rows."""
    from ftcli.papers.compeft.compression import tune_scale
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    stc = tune_scale(analysis.delta, [SPARSE], analysis.loss, rule="mean")[0]
    return analysis.loss(tune_scale(analysis.delta, [SPARSE], analysis.loss)[0]) - analysis.loss(
        stc
    )


@measure
def compeft_over_stc(run: Path) -> float:
    """Test loss of ComPEFT at 5 %, its scale chosen on held-out rows, minus that of STC with its own scale."""
    from ftcli.papers.compeft.compression import compress, tune_scale
    from ftcli.reproduce.deltas import analyse_run

    analysis = analyse_run(run)
    stc = compress(analysis.delta, SPARSE, rule="mean")[0]
    return analysis.loss(tune_scale(analysis.delta, [SPARSE], analysis.loss)[0]) - analysis.loss(
        stc
    )


@measure(exact=True)
def compeft_qlora_7b_mb(_run: Path) -> float:
    """Megabytes of a QLoRA adapter of Llama 7B at 5 % by the Golomb code's formula; 320 MB in bfloat16."""
    from ftcli.deltas.ternary import golomb_rate

    return QLORA_7B_ENTRIES * golomb_rate(SPARSE) / 8 / 1e6


@measure
def compeft_times_smaller(run: Path) -> float:
    """Bytes of the adapter's tensors in 16 bits over bytes of the whole ternary file, at 20 %."""
    import tempfile

    from ftcli.deltas import storage, ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import analyse_run

    compressed, coded = compeft.compress(analyse_run(run).delta, DENSITY)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "small"
        storage.save_delta(compressed, target, coded=ternary.encode(coded))
        size = (target / storage.TERNARY).stat().st_size
    return 2 * compressed.entries / size


@measure
def compeft_times_smaller_5(run: Path) -> float:
    """Bytes of the adapter's tensors in 16 bits over bytes of the ternary file, header included, at 5 %."""
    from ftcli.deltas import ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import analyse_run

    compressed, coded = compeft.compress(analyse_run(run).delta, 0.05)
    return 2 * compressed.entries / len(ternary.encode(coded))


@measure
def compeft_tuned_loss_ratio(run: Path) -> float:
    """Test loss with the ternary adapter, density and scale tuned, over that with the adapter as trained."""
    from ftcli.reproduce.deltas import analyse_run

    return analyse_run(run).loss(tune_run(run)[0]) / analyse_run(run).trained_loss


@cache
def tune_run(run: Path) -> tuple[Delta, Ternary]:
    """Return the delta compressed with density and alpha chosen on held-out rows, and its ternary vector."""
    from ftcli.papers.compeft.compression import tune_scale
    from ftcli.reproduce.deltas import analyse_run

    return tune_scale(analyse_run(run).delta, CANDIDATES, analyse_run(run).loss)


@measure
def compeft_tuned_times_smaller(run: Path) -> float:
    """Bytes of the adapter's tensors in 16 bits over bytes of the tuned ternary file, header included."""
    from ftcli.deltas import ternary

    coded = tune_run(run)[1]
    return 2 * coded.entries / len(ternary.encode(coded))
