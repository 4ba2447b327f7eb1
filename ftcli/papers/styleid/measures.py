"""Measurements of the styleid recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path

from ftcli.reproduce.measures import measure

STEPS = 50
LAYERS = ("up_blocks.2.*", "up_blocks.3.*")  # the decoder's blocks 7 to 12


@measure(exact=True)
def styleid_features_sd1_5(_run: Path) -> float:
    """Number of elements of queries, keys and values over all steps, counted on the meta device."""
    import torch

    from ftcli.models.ldm import LdmSource
    from ftcli.papers.styleid.attention import Features, tap_attention

    source = LdmSource("stable-diffusion-v1-5/stable-diffusion-v1-5", architecture="sd1_5")
    model = source.build_meta_model()
    features: Features = {}
    with torch.no_grad(), tap_attention(model.part("denoiser"), LAYERS) as taps:
        taps.record = features
        model(**{name: tensor.to("meta") for name, tensor in source.example_inputs(1).items()})
    return float(STEPS * sum(t.numel() for tensors in features.values() for t in tensors))
