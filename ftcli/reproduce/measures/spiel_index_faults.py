"""Whether the support of a sparse delta is still a set of k positions after training."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def spiel_index_faults(run: Path) -> float:
    """Over all matrices, positions that are double or outside, and entries more or fewer than at first."""
    from ftcli.papers.spiel.tuner import SpIELLinear
    from ftcli.reproduce.probe import again
    from ftcli.run.build import open_run

    def layers(model: object) -> list[SpIELLinear]:
        return [m for m in model.modules() if isinstance(m, SpIELLinear)]  # type: ignore[attr-defined]

    faults = 0
    pairs = zip(layers(open_run(run).model), layers(again(run).model), strict=True)
    for trained, fresh in pairs:
        places, first = trained.spiel_indices["default"], fresh.spiel_indices["default"]
        outside = (places < 0) | (places >= trained.shape[0] * trained.shape[1])
        faults += int(outside.sum()) + len(places) - len(places.unique())
        faults += abs(len(places) - len(first))
    return float(faults)
