"""Measurements of the corda recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.reproduce.measures import measure

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftcli.core.run import Run

KEPT = (0.25, 0.5, 0.75)  # shares of the components that are kept
ROWS = 64  # of GSM8K's test split


@measure(exact=True)
def context_truncation_ratio(run: Path) -> float:
    """||(W - W_k) X||_F of the context-oriented decomposition over that of the plain SVD.

    X are the layer's inputs for the context; W_k keeps the first k components. Geometric mean over
    layers and k. Below 1 the context-oriented components keep more of the layer's output on it
    (CorDA, arXiv 2406.05223, section 3).
    """
    import math

    import torch

    from ftcli.methods.shifted import lora_layers, weight_of
    from ftcli.papers.corda.method import decompose
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    covariances = fresh.method.covariances(fresh)
    logarithms = []
    for name, layer in lora_layers(fresh.model).items():
        weight, covariance = weight_of(layer).detach().float(), covariances[name]
        parts = decompose(weight, covariance, fresh.method.damping)
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        for share in KEPT:
            k = round(share * len(values))
            errors = [
                _error(weight - u[:, :k] * s[:k] @ v[:k], covariance)
                for u, s, v in (parts, (left, values, right))
            ]
            logarithms.append(math.log(errors[0] / errors[1]))
    return math.exp(sum(logarithms) / len(logarithms))


def _error(residual: Tensor, covariance: Tensor) -> float:
    """Return ||R X||_F = sqrt(trace(R X X^T R^T)) of a residual R [out, in]."""
    return float((residual @ covariance * residual).sum().clamp(min=1e-30).sqrt())


@measure
def gsm8k_forgetting(run: Path) -> float:
    """Loss of GSM8K's held-out questions and answers after finetuning minus the base's, nats a token.

    The loss is over all tokens, those of the question too. Negative where finetuning lowered it.
    """
    from ftcli.data.dataset import Data
    from ftcli.reproduce.probe import rebuild_run
    from ftcli.run.build import open_run

    tuned = open_run(run)
    data = Data(
        "asset:gsm8k", split="test", format="prompt", train_on="all", limit=ROWS, packing="none",
        columns={"prompt": "question", "completion": "answer"}, cache_dir=tuned.data.cache_dir,
    )  # fmt: skip
    loader = data.loader("train", tuned.tokenizer, batch_size=8, shuffle=False)
    base = rebuild_run(run).model_source.load().to(tuned.accelerator.device)
    before, after = (_loss(tuned, model, list(loader)) for model in (base, tuned.model))
    return after - before


def _loss(run: Run, model: nn.Module, batches: list[dict[str, Any]]) -> float:
    """Return the mean loss of the supervised tokens of all batches, in nats."""
    import torch

    from ftcli.reproduce.probe import loss_of

    with torch.no_grad():
        values = torch.cat([loss_of(run, model.eval(), batch) for batch in batches])
    return values.double().mean().item()
