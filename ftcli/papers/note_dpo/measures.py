"""Measurements of the note_dpo recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def precomputed_reference_difference(run: Path) -> float:
    """Largest difference between precomputed and live log pi_ref(y|x) in the first batch, in nats.

    The first are computed over the whole split in its order, the second in the batch of the first step,
    both in the trained run.
    """
    import torch

    from ftcli.reproduce.probe import first_batch
    from ftcli.run.build import open_run

    trained = open_run(run)
    trained.objective.setup(trained)
    batch = first_batch(trained)
    known = trained.objective.with_reference(batch, "train")["reference"]
    with torch.no_grad(), trained.autocast():
        live = trained.objective.compare(trained.model, batch)[0].reference
    return (live.cpu() - known).abs().max().item()
