"""What ComPEFT saves of an adapter at the density that held-out rows choose."""

from __future__ import annotations

from pathlib import Path


def compeft_tuned_times_smaller(run: Path) -> float:
    """Bytes of the adapter's tensors in 16 bits over bytes of the ternary file, header included."""
    from ftcli.deltas import ternary
    from ftcli.reproduce.measures.compeft_tuned_loss_ratio import chosen

    coded = chosen(run)[1]
    return 2 * coded.entries / len(ternary.write(coded))
