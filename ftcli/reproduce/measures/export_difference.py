"""Whether the saved adapter computes what was trained."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure


@measure(exact=True)
def export_difference(run: Path) -> float:
    """Largest difference of a training token's loss between the trained model and PEFT's reading of
    `adapter/` on the untouched base."""
    import peft
    import torch

    from ftcli.reproduce.probe import first_batch, loss_of
    from ftcli.run.build import open_run

    trained = open_run(run)
    batch = first_batch(trained)
    base = trained.model_source.load().to(trained.accelerator.device)
    loaded = peft.PeftModel.from_pretrained(base, run / "adapter").eval()
    with torch.no_grad():
        losses = [loss_of(trained, model, batch) for model in (trained.model, loaded)]
    return (losses[0] - losses[1]).abs().max().item()
