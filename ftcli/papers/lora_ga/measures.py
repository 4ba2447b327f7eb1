"""Measurements of the lora_ga recipe, by the names its claims use; each takes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.reproduce.measures import measure

STEP = 1e-4  # of gradient descent: small, so that what is seen is a direction
SAMPLES = 8


@measure
def first_step_alignment(run: Path) -> float:
    """Cosine of the change of scale * B A and the negative gradient of the base, all layers as one.

    One step of plain gradient descent of the adapter on the rows whose gradient is taken: those that
    LoRA-GA begins with.
    """
    import torch

    from ftcli.methods.calibration import calibration_batches, objective_loss
    from ftcli.methods.shifted import lora_layers
    from ftcli.papers.lora_ga.method import layer_gradients
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    layers = lora_layers(fresh.model)
    goal = layer_gradients(fresh, layers, SAMPLES)
    fresh.method.setup(fresh)
    before = {name: _product(layer) for name, layer in layers.items()}
    drawn = list(calibration_batches(fresh, SAMPLES))
    loss = objective_loss(fresh, drawn)
    for batch in drawn:
        loss(fresh.model.eval(), batch).backward()
    with torch.no_grad():
        for parameter in fresh.model.parameters():
            if parameter.grad is not None:
                parameter -= STEP * parameter.grad
    along, moved, wanted = 0.0, 0.0, 0.0
    for name, layer in layers.items():
        change = _product(layer) - before[name]
        target = -goal[name].to(change)
        along += float((change * target).sum())
        moved, wanted = moved + float(change.square().sum()), wanted + float(target.square().sum())
    return along / (moved * wanted) ** 0.5


def _product(layer: Any) -> Any:
    """scale * B A in double precision: the change is a small part of it."""
    from ftcli.methods.peft import ADAPTER

    a, b = (part[ADAPTER].weight.detach().double() for part in (layer.lora_A, layer.lora_B))
    return layer.scaling[ADAPTER] * (b @ a)


@measure(exact=True)
def lora_ga_equation_error(run: Path) -> float:
    """Largest relative error over layers of B B^T G + G A^T A = (sqrt(out) / gamma) G_2r.

    LoRA-GA (arXiv 2407.05000), with G the base's gradient over the samples, taken anew.
    """
    import torch

    from ftcli.methods.peft import ADAPTER
    from ftcli.methods.shifted import lora_layers
    from ftcli.papers.lora_ga.method import layer_gradients
    from ftcli.reproduce.probe import rebuild_run

    fresh = rebuild_run(run)
    fresh.load_model()
    how, layers = fresh.method, lora_layers(fresh.model)
    gradients = layer_gradients(fresh, layers, how.samples, how.batch_size)
    how.setup(fresh)
    worst = 0.0
    for name, layer in layers.items():
        gradient = gradients[name].to(layer.lora_A[ADAPTER].weight.device)
        a, b = (part[ADAPTER].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        first = slice(0, 2 * len(a))
        best = left[:, first] * values[first] @ right[first]
        best *= gradient.shape[0] ** 0.5 / how.gamma
        error = (b @ b.T @ gradient + gradient @ a.T @ a - best).norm() / best.norm()
        worst = max(worst, error.item())
    return worst
