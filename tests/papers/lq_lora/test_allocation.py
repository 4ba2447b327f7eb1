"""The integer program: one format a matrix, within the budget, no worse than brute force or uniform."""

from __future__ import annotations

import itertools

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.papers.lq_lora.allocation import Candidates, allocate, measure_costs
from ftcli.papers.lq_lora.decomposition import Settings
from ftcli.papers.lq_lora.normal_float import Format


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", [1.0, 1e9])
def test_it_is_the_best_of_all_choices(seed, unit):
    torch.manual_seed(seed)
    sizes = unit * (torch.rand(3, 5).double() + 0.5)
    costs = torch.exp(6 * torch.randn(3, 5)).double() / unit
    budget = 3 * sizes.mean().item()

    def add(table, choice):
        return sum(table[i, c].item() for i, c in enumerate(choice))

    fitting = [c for c in itertools.product(range(5), repeat=3) if add(sizes, c) <= budget]
    best = min(add(costs, choice) for choice in fitting)
    chosen = allocate(costs, sizes, budget)
    assert len(chosen) == 3 and add(sizes, chosen) <= budget * (1 + 1e-6)
    assert add(costs, chosen) == pytest.approx(best, rel=1e-6)


def test_mixed_formats_cost_less_than_the_best_uniform_one_that_fits():
    torch.manual_seed(0)
    formats = [Format(bits) for bits in (2, 3, 4)]
    weights = [scale * torch.randn(32, 64) for scale in (0.01, 0.02, 0.05, 0.2)]
    rows = [measure_costs(w, formats, 4, None, Settings(iterations=3)) for w in weights]
    costs, sizes = (torch.stack(column) for column in zip(*rows, strict=True))
    assert sizes[0].tolist() == [form.count_bits(32 * 64) for form in formats]
    budget = sizes[:, 1].sum().item()
    chosen = allocate(costs, sizes, budget)
    size, cost = (sum(t[i, c].item() for i, c in enumerate(chosen)) for t in (sizes, costs))
    assert size <= budget and cost < 0.9 * costs[:, 1].sum().item()


def test_a_budget_below_the_smallest_formats_is_refused():
    with pytest.raises(UserError, match="above the budget"):
        allocate(torch.ones(2, 2), torch.full((2, 2), 10.0), 19)


def test_the_papers_candidates():
    formats = list(Candidates().formats())
    assert len(formats) == len(set(formats)) == 432
