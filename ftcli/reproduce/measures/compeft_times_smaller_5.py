"""The same with a twentieth of the entries."""

from __future__ import annotations

from pathlib import Path


def compeft_times_smaller_5(run: Path) -> float:
    """Bytes of the adapter's tensors in 16 bits over bytes of the ternary file, header included, at 5 %."""
    from ftcli.deltas import ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import opened

    made, coded = compeft.compress(opened(run).delta, 0.05)
    return 2 * made.entries / len(ternary.write(coded))
