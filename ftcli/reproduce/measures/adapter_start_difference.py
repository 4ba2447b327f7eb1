"""Whether a fresh adapter leaves what the model computes as it was."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def adapter_start_difference(run: Path) -> float:
    """Largest difference of a training example's outputs with the fresh adapter switched on and off."""
    import torch

    from ftcli.reproduce.probe import again, first_batch

    fresh = again(run)
    inputs = first_batch(fresh)["inputs"]
    model = fresh.model.eval()
    with torch.no_grad():
        own = model(**inputs).logits
        with model.disable_adapter():
            base = model(**inputs).logits
    return float((own - base).abs().max())
