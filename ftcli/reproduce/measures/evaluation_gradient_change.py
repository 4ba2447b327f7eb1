"""Whether looking at a model changes how it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXACT = True


def evaluation_gradient_change(run: Path) -> float:
    """Largest difference of an adapter's gradients before and after an evaluation pass.

    bitsandbytes 0.50 on CPUs with AVX512-BF16 repacks weights in the first such pass, after which
    the path through the base gave no gradient; `ftcli.models.quantization` turns that off.
    """
    from ftcli.models.decoding import judging
    from ftcli.reproduce.probe import again, first_batch, loss_of

    fresh = again(run)
    batch = first_batch(fresh)
    _wake(fresh.model)
    before = _gradients(fresh, batch)
    with judging(fresh) as model:
        loss_of(fresh, model, batch)
    after = _gradients(fresh, batch)
    return max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))


def _wake(model: Any) -> None:
    """Move what is trained off its zeros, where half of LoRA's gradients are zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.01 * noise.to(parameter))


def _gradients(run: Any, batch: dict[str, Any]) -> list[Any]:
    from ftcli.reproduce.probe import loss_of

    run.model.train()
    run.model.zero_grad(set_to_none=True)
    loss_of(run, run.model, batch).mean().backward()
    return [p.grad.clone() for p in run.model.parameters() if p.grad is not None]
