"""Whether a gradient passes through the frozen base."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def qst_base_graph(run: Path) -> float:
    """Blocks whose output is part of autograd's graph in a step, and base tensors with a gradient."""
    from ftcli.models.anatomy import Anatomy
    from ftcli.reproduce.probe import again, first_batch, loss_of

    fresh = again(run)
    anatomy, inside = Anatomy(fresh.model), []
    for _, block in anatomy.blocks:
        block.register_forward_hook(lambda _m, _a, out: inside.append(out.requires_grad))
    fresh.model.train()
    loss_of(fresh, fresh.model, first_batch(fresh)).sum().backward()
    assert len(inside) == len(anatomy.blocks)
    base = [p for m in anatomy.modules.values() for p in m.parameters(recurse=False)]
    return float(sum(inside) + sum(p.grad is not None for p in base))
