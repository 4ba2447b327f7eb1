"""SSF beside a linear probe on a ViT that knows other classes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

EXACT = True  # fixed seeds
SEEDS, PRETRAINING, STEPS, RATE = 2, 300, 100, 3e-2


def ssf_over_linear_probe(_run: Path) -> float:
    """Held-out accuracy of SSF minus that of the probe, the smaller of two seeds.

    Both train a new classifier on eight new classes, with the same batches, steps and rate.
    """
    return min(_accuracy(base, True, s) - _accuracy(base, False, s) for s, base in _bases())


def _bases() -> list[tuple[int, Any]]:
    from ftcli.reproduce.glyphs import Glyphs, fit, vit

    return [(s, fit(vit(s), Glyphs(100 + s), 3e-3, PRETRAINING, s)) for s in range(SEEDS)]


def _accuracy(base: Any, ssf: bool, seed: int) -> float:
    import torch
    from peft import get_peft_model

    from ftcli.methods.tuners.ssf import SsfConfig
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
