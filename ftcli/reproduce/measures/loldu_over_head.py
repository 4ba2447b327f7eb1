"""Diagonals alone beside the classifier alone, on images that a ViT has not seen so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

PRETRAINING, STEPS = 300, 300
DIAGONAL_RATE, HEAD_RATE = 1e-2, 1e-1  # the best of 0.003, 0.01, 0.03, 0.1 for each
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


def loldu_over_head(run: Path) -> float:
    """Held-out loss of LoLDU, its classifier frozen, minus that of the head, with the run's seed.

    The classes stay, their images turn negative and are transposed.
    """
    from ftcli.reproduce.probe import seed_of

    return _difference(seed_of(run))


def _difference(seed: int) -> float:
    from peft import get_peft_model

    from ftcli.papers.loldu.method import LolduConfig
    from ftcli.reproduce.glyphs import Glyphs, fit, judge, vit

    base = fit(vit(seed), Glyphs(100 + seed), 3e-3, PRETRAINING, seed)
    task = Glyphs(100 + seed, negative=True)

    def loss(model: Any, rate: float) -> float:
        return judge(fit(model, task, rate, STEPS, seed + 50), task)[0]

    adapted = get_peft_model(copy.deepcopy(base), LolduConfig(target_modules=LAYERS))
    return loss(adapted, DIAGONAL_RATE) - loss(_head(base), HEAD_RATE)


def _head(base: Any) -> Any:
    model = copy.deepcopy(base).requires_grad_(False)
    model.classifier.requires_grad_(True)
    return model
