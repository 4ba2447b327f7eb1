"""Whether a compressed adapter is what ComPEFT's algorithm says, on disk too."""

from __future__ import annotations

from pathlib import Path

EXACT = True
DENSITIES = (0.05, 0.2, 0.5)


def compeft_faults(run: Path) -> float:
    """Broken statements, over three densities: int(d k) signs of one size, the largest, read back exactly."""
    import numpy as np
    import torch

    from ftcli.deltas import ternary
    from ftcli.papers.compeft import compression as compeft
    from ftcli.reproduce.deltas import opened

    before = torch.cat(list(opened(run).delta.flat()))
    faults: list[bool] = []
    for density in DENSITIES:
        made, coded = compeft.compress(opened(run).delta, density)
        after = torch.cat(list(made.flat()))
        kept, again = after != 0, ternary.read(ternary.write(coded))
        expected = np.float32(before.std().item())
        faults += [
            int(kept.sum()) != int(len(before) * density),
            len(after[kept].abs().unique()) != 1,
            bool(abs(coded.scale / expected - 1) > 1e-6),
            bool(before[kept].abs().min() < before[~kept].abs().max()),
            not torch.equal(after[kept].sign(), before[kept].sign()),
            not np.array_equal(again.positions, coded.positions),
            not np.array_equal(again.negative, coded.negative),
        ]
    return float(sum(faults))
