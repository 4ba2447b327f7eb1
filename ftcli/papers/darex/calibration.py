"""Inputs of the DAREx searches without labels: changes of the outputs, mean inputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ftcli.deltas.delta import Delta
from ftcli.deltas.evaluator import RunEvaluator
from ftcli.models.anatomy import Anatomy

TOP = 5  # likeliest tokens of a position whose logits are compared


class OutputChange:
    """Change of the finetuned model's largest logits by pruning, on some training rows.

    The mean squared difference at the finetuned model's 5 likeliest tokens of every position (arXiv
    2410.09344, decoders). Lower is better.

    Args:
        tensors: the unpruned finetuned model.
        rows: number of training rows.
    """

    def __init__(
        self, evaluator: RunEvaluator, tensors: Mapping[str, Tensor], rows: int = 16
    ) -> None:
        self.evaluator = evaluator
        self.batches = list(iterate_calibration_ids(evaluator, rows))
        evaluator.load(tensors)
        self.teacher = [logits.topk(TOP, dim=-1) for logits in self._logits()]

    def __call__(self, tensors: Mapping[str, Tensor]) -> float:
        """Return the mean squared difference of the logits with these weights."""
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


def iterate_calibration_ids(evaluator: RunEvaluator, rows: int) -> Iterator[Tensor]:
    """Yield the token ids [1, T] of the first training rows of the run."""
    run = evaluator.run
    tokenized = run.data.prepare("train", run.tokenizer)
    for row in range(min(rows, len(tokenized))):
        yield torch.tensor([[int(t) for t in tokenized.row(row)["input_ids"]]])


@torch.no_grad()
def compute_mean_inputs(
    evaluator: RunEvaluator, tensors: Mapping[str, Tensor], rows: int = 50
) -> dict[str, Tensor]:
    """Return the mean input [in] of each linear of the blocks by name, over all tokens of some rows."""
    evaluator.load(tensors)
    sums: dict[str, Tensor] = {}
    count = 0

    def make_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            total = inputs[0].detach().double().reshape(-1, inputs[0].shape[-1]).sum(0)
            sums[name] = sums[name] + total if name in sums else total

        return hook

    linears = Anatomy(evaluator.model).block_linears
    hooks = [li.module.register_forward_pre_hook(make_hook(li.name)) for li in linears]
    try:
        for ids in iterate_calibration_ids(evaluator, rows):
            evaluator.model(input_ids=ids)
            count += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / count for name, total in sums.items()}


def compute_layer_q(
    delta: Delta, inputs: Mapping[str, Tensor], p: float, eta: float, **options: Any
) -> dict[str, float]:
    """Return q by tensor: `analytic_q` for a linear and its bias, the mean of those for the others.

    Args:
        inputs: mean input [in] of each linear by name.
        options: options of `analytic_q`.
    """
    from ftcli.papers.darex.pruning import analytic_q

    q_by_name: dict[str, float] = {}
    for layer, mean in inputs.items():
        if f"{layer}.weight" not in delta.shapes:
            continue
        change = delta.read(f"{layer}.weight")
        c = change * mean.to(change)
        if f"{layer}.bias" in delta.shapes:
            c = torch.cat([c, delta.read(f"{layer}.bias")[:, None]], dim=1)
        q = analytic_q(c, p, eta, **options)
        q_by_name |= {f"{layer}.{part}": q for part in ("weight", "bias")}
    mean_q = sum(q_by_name.values()) / len(q_by_name)
    return {name: q_by_name.get(name, mean_q) for name in delta.shapes}
