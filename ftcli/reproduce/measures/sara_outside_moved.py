"""Whether SaRA changed an entry that it had not selected."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def sara_outside_moved(run: Path) -> float:
    """Entries of the base with |w| >= threshold that differ by any bit after training."""
    from ftcli.reproduce.probe import again
    from ftcli.run.build import open_run

    trained = open_run(run)
    limit = trained.method.describe()["threshold"]
    after = dict(trained.method.merge(trained.model).named_parameters())
    base = dict(again(run).model_source.load().named_parameters())
    moved = [((after[n] != p) & (p.abs() >= limit)).sum() for n, p in base.items()]
    return float(sum(int(count) for count in moved))
