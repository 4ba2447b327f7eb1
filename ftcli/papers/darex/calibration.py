"""What a DAREx search without labels looks at: outputs of the finetuned model, mean inputs of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ftcli.deltas.evaluator import RunEvaluator
from ftcli.models.anatomy import Anatomy

TOP = 5


class OutputChange:
    """How far weights move the finetuned model's largest logits, on some training rows.

    Mean squared difference at the teacher's 5 likeliest tokens of every position (arXiv 2410.09344,
    decoders). Less is better.

    Args:
        tensors: the unpruned finetuned model.
        rows: how many rows are looked at.
    """

    def __init__(
        self, evaluator: RunEvaluator, tensors: Mapping[str, Tensor], rows: int = 16
    ) -> None:
        self.evaluator = evaluator
        self.batches = list(calibration(evaluator, rows))
        evaluator.load(tensors)
        self.teacher = [logits.topk(TOP, dim=-1) for logits in self._logits()]

    def __call__(self, tensors: Mapping[str, Tensor]) -> float:
        """The change of these weights' outputs."""
        self.evaluator.load(tensors)
        total, count = 0.0, 0
        for logits, (values, indices) in zip(self._logits(), self.teacher, strict=True):
            total += (logits.gather(-1, indices) - values).square().sum().item()
            count += values.numel()
        return total / count

    @torch.no_grad()
    def _logits(self) -> Iterator[Tensor]:
        for ids in self.batches:
            yield self.evaluator.model(input_ids=ids).logits.float()


def calibration(evaluator: RunEvaluator, rows: int) -> Iterator[Tensor]:
    """Token ids [1, T] of the first training rows of the run."""
    run = evaluator.run
    tokens = run.data.prepare("train", run.tokenizer)
    for row in range(min(rows, len(tokens))):
        yield torch.tensor([[int(t) for t in tokens.row(row)["input_ids"]]])


@torch.no_grad()
def mean_inputs(
    evaluator: RunEvaluator, tensors: Mapping[str, Tensor], rows: int = 50
) -> dict[str, Tensor]:
    """Name of each linear of the blocks -> its mean input [in] over all tokens of some rows."""
    evaluator.load(tensors)
    sums: dict[str, Tensor] = {}
    count = 0

    def collect(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, ...]) -> None:
            own = inputs[0].detach().double().reshape(-1, inputs[0].shape[-1]).sum(0)
            sums[name] = sums[name] + own if name in sums else own

        return hook

    linears = Anatomy(evaluator.model).block_linears
    hooks = [li.module.register_forward_pre_hook(collect(li.name)) for li in linears]
    try:
        for ids in calibration(evaluator, rows):
            evaluator.model(input_ids=ids)
            count += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / count for name, total in sums.items()}


def analytic(
    delta: Any, inputs: Mapping[str, Tensor], p: float, eta: float, **options: Any
) -> dict[str, float]:
    """q of each tensor: of a linear by `darex.analytic_q`, its bias the same, of others the mean."""
    from ftcli.papers.darex.pruning import analytic_q

    found: dict[str, float] = {}
    for layer, mean in inputs.items():
        if f"{layer}.weight" not in delta.shapes:
            continue
        change = delta.read(f"{layer}.weight")
        c = change * mean.to(change)
        if f"{layer}.bias" in delta.shapes:
            c = torch.cat([c, delta.read(f"{layer}.bias")[:, None]], dim=1)
        q = analytic_q(c, p, eta, **options)
        found |= {f"{layer}.{part}": q for part in ("weight", "bias")}
    mean_q = sum(found.values()) / len(found)
    return {name: found.get(name, mean_q) for name in delta.shapes}
