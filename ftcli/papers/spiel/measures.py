"""Measurements of the spiel recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def spiel_index_faults(run: Path) -> float:
    """Count the faults of the sparse indices over all matrices.

    A fault is a position that occurs twice, a position outside of its matrix, and each entry more or
    fewer than before training.
    """
    from ftcli.papers.spiel.tuner import SpIELLinear
    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import open_run

    def layers(model: object) -> list[SpIELLinear]:
        return [m for m in model.modules() if isinstance(m, SpIELLinear)]  # type: ignore[attr-defined]

    faults = 0
    pairs = zip(layers(open_run(run).model), layers(rebuild_run(run).load_model()), strict=True)
    for trained, fresh in pairs:
        places, first = trained.spiel_indices["default"], fresh.spiel_indices["default"]
        outside = (places < 0) | (places >= trained.shape[0] * trained.shape[1])
        faults += int(outside.sum()) + len(places) - len(places.unique())
        faults += abs(len(places) - len(first))
    return float(faults)


@measure
def spiel_moved_share(run: Path) -> float:
    """Share of the positions after training that were not among the random ones before it."""
    import torch

    from ftcli.papers.spiel.tuner import SpIELLinear
    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import open_run

    supports = [
        [m.spiel_indices["default"] for m in model.modules() if isinstance(m, SpIELLinear)]
        for model in (open_run(run).model, rebuild_run(run).load_model())
    ]
    pairs = list(zip(*supports, strict=True))
    new = sum(int((~torch.isin(after, before)).sum()) for after, before in pairs)
    return new / sum(len(after) for after, _ in pairs)
