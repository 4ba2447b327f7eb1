"""SSF beside a linear probe on a ViT that knows other classes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

PRETRAINING, STEPS, RATE = 300, 100, 3e-2


def ssf_over_linear_probe(run: Path) -> float:
    """Held-out accuracy of SSF minus that of the probe, with the run's seed.

    Both train a new classifier on eight new classes, with the same batches, steps and rate.
    """
    from ftcli.reproduce.glyphs import Glyphs, fit, vit
    from ftcli.reproduce.probe import seed_of

    seed = seed_of(run)
    base = fit(vit(seed), Glyphs(100 + seed), 3e-3, PRETRAINING, seed)
    return _accuracy(base, True, seed) - _accuracy(base, False, seed)


def _accuracy(base: Any, ssf: bool, seed: int) -> float:
    import torch
    from peft import get_peft_model

    from ftcli.papers.ssf.method import SsfConfig
    from ftcli.reproduce.glyphs import Glyphs, fit, judge

    torch.manual_seed(seed)
    model = copy.deepcopy(base).requires_grad_(False)
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    torch.nn.init.zeros_(model.classifier.bias)
    model.classifier.requires_grad_(True)
    if ssf:
        model = get_peft_model(model, SsfConfig(modules_to_save=["classifier"]))
    task = Glyphs(200 + seed)
    return judge(fit(model, task, RATE, STEPS, seed + 50), task)[1]
