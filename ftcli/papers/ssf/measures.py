"""Measurements of the ssf recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

PRETRAINING, STEPS, RATE = 300, 100, 3e-2


@measure(exact=True)
def ssf_convnext_b(_run: Path) -> float:
    """Trained parameters on ConvNeXt-B. Per block of C channels 14 C; stem 4 C; down-sampling to 2 C 6 C; final norm 2 C."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageClassification as AutoModel
    from transformers import ConvNextConfig

    from ftcli.papers.ssf.method import SsfConfig

    size = ConvNextConfig(hidden_sizes=[128, 256, 512, 1024], depths=[3, 3, 27, 3])
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, SsfConfig())
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


@measure
def ssf_over_linear_probe(run: Path) -> float:
    """Held-out accuracy of SSF minus that of a linear probe, with the run's seed.

    Both train a new classifier for eight new classes, with the same batches, steps and rate.
    """
    from ftcli.reproduce.glyphs import Glyphs, build_vit, fit_model
    from ftcli.reproduce.probe import seed_of

    seed = seed_of(run)
    base = fit_model(build_vit(seed), Glyphs(100 + seed), 3e-3, PRETRAINING, seed)
    return _accuracy(base, True, seed) - _accuracy(base, False, seed)


def _accuracy(base: Any, ssf: bool, seed: int) -> float:
    import torch
    from peft import get_peft_model

    from ftcli.papers.ssf.method import SsfConfig
    from ftcli.reproduce.glyphs import Glyphs, evaluate_model, fit_model

    torch.manual_seed(seed)
    model = copy.deepcopy(base).requires_grad_(False)
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    torch.nn.init.zeros_(model.classifier.bias)
    model.classifier.requires_grad_(True)
    if ssf:
        model = get_peft_model(model, SsfConfig(modules_to_save=["classifier"]))
    task = Glyphs(200 + seed)
    return evaluate_model(fit_model(model, task, RATE, STEPS, seed + 50), task)[1]


@measure(exact=True)
def ssf_swin_b(_run: Path) -> float:
    """Trained parameters on Swin-B. Per block of C channels 22 C, down-sampling 12 C, patches 4 C, final norm 2 C."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageClassification as AutoModel
    from transformers import SwinConfig

    from ftcli.papers.ssf.method import SsfConfig

    size = SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, SsfConfig())
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


@measure(exact=True)
def ssf_vit_b16(_run: Path) -> float:
    """Trained parameters on ViT-B/16: 2 (768 (1 + 12 (1 + 3 + 1 + 1 + 1) + 1) + 12 * 4 * 768): patches, norms, q, k, v, o, MLP."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageClassification as AutoModel
    from transformers import ViTConfig

    from ftcli.papers.ssf.method import SsfConfig

    size = ViTConfig()
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, SsfConfig())
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
