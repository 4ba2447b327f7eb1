"""How well LoRA-GA's factors carry the gradient they were made from."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def lora_ga_equation_error(run: Path) -> float:
    """Largest relative error over layers of B B^T G + G A^T A = (sqrt(out) / gamma) G_2r.

    LoRA-GA (arXiv 2407.05000), with G the base's gradient over the samples, taken anew.
    """
    import torch

    from ftcli.methods.peft import ADAPTER
    from ftcli.methods.shifted import lora_layers
    from ftcli.papers.lora_ga.method import layer_gradients
    from ftcli.reproduce.probe import again

    fresh = again(run)
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
