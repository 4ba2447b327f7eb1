"""A format for each matrix under a common budget of bits: a cost table and an integer linear program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ftcli.core.errors import UserError, missing_package
from ftcli.papers.lq_lora.decomposition import Settings, decompose
from ftcli.papers.lq_lora.normal_float import Format


@dataclass(frozen=True)
class Candidates:
    """Values of which every combination is a format; the defaults are the paper's 432."""

    bits: Sequence[int] = (2, 3, 4, 8)
    scale_bits: Sequence[int] = (2, 3, 4, 8)
    superscale: Sequence[str] = ("bf16", "fp16", "fp32")
    block: Sequence[int] = (16, 32, 64)
    superblock: Sequence[int] = (16, 64, 256)

    def formats(self) -> Iterator[Format]:
        """Yield every combination."""
        values = (self.bits, self.scale_bits, self.superscale, self.block, self.superblock)
        for bits, scale_bits, superscale, block, superblock in product(*values):
            yield Format(bits, scale_bits, superscale, block, superblock)  # type: ignore[arg-type]


def measure_costs(
    weight: Tensor, formats: Sequence[Format], r: int, fisher: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return squared errors and stored bits of one matrix in every format, float64 [formats] each."""
    errors = [decompose(weight, form, r, fisher, settings).error ** 2 for form in formats]
    sizes = [form.count_bits(weight.numel()) for form in formats]
    return torch.tensor(errors).double(), torch.tensor(sizes).double()


def allocate(costs: Tensor, sizes: Tensor, budget: float) -> list[int]:
    """Return the format of each matrix that minimises the sum of costs, sizes together at most `budget`.

    Minimise sum x_ic c_ic subject to sum x_ic w_ic <= budget and sum_c x_ic = 1, x binary. Costs and sizes
    are divided by their means beforehand, because their entries span many orders of magnitude.

    Args:
        costs, sizes: [matrices, formats].
        budget: bits in all.

    Raises:
        UserError: no choice fits the budget, or the solver is not installed.
    """
    try:
        import highspy
    except ModuleNotFoundError as error:
        raise missing_package("highspy", "allocation", "method.budget_bits") from error
    least = float(sizes.min(1).values.sum())
    if least > budget:
        raise UserError(
            f"the smallest formats take {least:.0f} bits together, above the budget of {budget:.0f}.",
            where="method.budget_bits",
            fix="a larger budget, or fewer bits among method.bits",
        )
    unit = float(sizes.mean())
    scaled = (costs / costs.mean().clamp(min=torch.finfo(costs.dtype).tiny)).tolist()
    solver = highspy.Highs()
    solver.silent()
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("threads", 1)
    choices = [[solver.addBinary(obj=cost) for cost in row] for row in scaled]
    for row in choices:
        solver.addConstr(solver.qsum(row) == 1)
    parts = zip(choices, (sizes / unit).tolist(), strict=True)
    terms = [x * size for row, of_row in parts for x, size in zip(row, of_row, strict=True)]
    solver.addConstr(solver.qsum(terms) <= budget / unit)
    solver.minimize()
    chosen = [[solver.val(x) for x in row] for row in choices]
    return [max(range(len(row)), key=row.__getitem__) for row in chosen]
