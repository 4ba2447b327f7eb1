"""What StyleID records of one image of 512 x 512 pixels in Stable Diffusion."""

from __future__ import annotations

from pathlib import Path

EXACT = True
STEPS = 50
LAYERS = ("up_blocks.2.*", "up_blocks.3.*")  # the decoder's blocks 7 to 12


def styleid_features_sd1_5(_run: Path) -> float:
    """Values of queries, keys and values over all steps, counted in a call on the meta device."""
    import torch

    from ftcli.models.ldm import Ldm
    from ftcli.papers.styleid.attention import Features, tapped

    source = Ldm("stable-diffusion-v1-5/stable-diffusion-v1-5", architecture="sd1_5")
    model = source.meta()
    features: Features = {}
    with torch.no_grad(), tapped(model.part("denoiser"), LAYERS) as taps:
        taps.record = features
        model(**{name: tensor.to("meta") for name, tensor in source.example_inputs(1).items()})
    return float(STEPS * sum(t.numel() for found in features.values() for t in found))
