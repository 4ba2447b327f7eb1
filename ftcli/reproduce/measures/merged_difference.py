"""Whether merging changes what the trained model computes."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def merged_difference(run: Path) -> float:
    """Largest difference of a training token's loss between the trained model and its merged form.

    In the precision of the weights, whatever the run's: activations rounded to 16 bits differ in the
    order of the sums alone.
    """
    import torch

    from ftcli.reproduce.probe import first_batch
    from ftcli.run.build import open_run

    trained = open_run(run)
    batch = first_batch(trained)
    with torch.no_grad():
        before = trained.objective(trained.model.eval(), batch).values
        merged = trained.method.merge(trained.model).eval()
        after = trained.objective(merged, batch).values
    return (before - after).abs().max().item()
