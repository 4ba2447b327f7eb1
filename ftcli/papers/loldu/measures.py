"""Measurements of the loldu recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

PRETRAINING, STEPS = 300, 300
DIAGONAL_RATE, HEAD_RATE = 1e-2, 1e-1  # the best of 0.003, 0.01, 0.03, 0.1 for each
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


@measure(exact=True)
def loldu_factor_error(run: Path) -> float:
    """Largest |P L diag(D) U - W| / |W| (Frobenius) over the linears of the base's blocks."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.papers.loldu.method import ldu
    from ftcli.reproduce.probe import rebuild_run

    base = rebuild_run(run).model_source.load()
    errors = []
    for linear in Anatomy(base).block_linears:
        weight: Any = linear.module.weight
        weight = weight.detach().float()
        lower, diagonal, upper = ldu(weight)
        errors.append(((lower * diagonal @ upper - weight).norm() / weight.norm()).item())
    return max(errors)


@measure
def loldu_over_head(run: Path) -> float:
    """Held-out loss of LoLDU, its classifier frozen, minus that of the head, with the run's seed.

    The task has the same classes with inverted and transposed images.
    """
    from ftcli.reproduce.probe import seed_of

    return _difference(seed_of(run))


def _difference(seed: int) -> float:
    from peft import get_peft_model

    from ftcli.papers.loldu.method import LolduConfig
    from ftcli.reproduce.glyphs import Glyphs, build_vit, evaluate_model, fit_model

    base = fit_model(build_vit(seed), Glyphs(100 + seed), 3e-3, PRETRAINING, seed)
    task = Glyphs(100 + seed, negative=True)

    def loss(model: Any, rate: float) -> float:
        return evaluate_model(fit_model(model, task, rate, STEPS, seed + 50), task)[0]

    adapted = get_peft_model(copy.deepcopy(base), LolduConfig(target_modules=LAYERS))
    return loss(adapted, DIAGONAL_RATE) - loss(_head(base), HEAD_RATE)


def _head(base: Any) -> Any:
    model = copy.deepcopy(base).requires_grad_(False)
    model.classifier.requires_grad_(True)
    return model


@measure(exact=True)
def loldu_roberta_base(_run: Path) -> float:
    """Trained parameters on RoBERTa base: 768 for each query and value of 12 layers."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, RobertaConfig

    from ftcli.papers.loldu.method import LolduConfig

    size = RobertaConfig()
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, LolduConfig(r=768, target_modules=["query", "value"]))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


@measure(exact=True)
def loldu_vit_base(_run: Path) -> float:
    """Trained parameters on ViT base: 768 for each query and value of 12 layers."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModel, ViTConfig

    from ftcli.papers.loldu.method import LolduConfig

    size = ViTConfig()
    with torch.device("meta"):
        base: Any = AutoModel.from_config(size)
        model = get_peft_model(base, LolduConfig(r=768, target_modules=["q_proj", "v_proj"]))
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))
