"""The alternation: errors, the weighted decomposition where it is exact, dead rows."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.lq_lora.decomposition import Settings, decompose, low_rank
from ftcli.papers.lq_lora.normal_float import Format, quantise

EXACT = Settings(randomized=False)


def matrix(rows=64, columns=96, seed=0):
    torch.manual_seed(seed)
    return 0.02 * torch.randn(rows, columns)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("settings", [EXACT, Settings()])
def test_errors_fall_and_end_below_plain_quantisation(bits, settings):
    weight, form = matrix(), Format(bits)
    parts = decompose(weight, form, 8, settings=settings)
    plain = (weight - quantise(weight, form).weight()).norm().item()
    kept = parts.errors[:-1] if len(parts.errors) < settings.iterations else parts.errors
    assert list(kept) == sorted(kept, reverse=True) and parts.error == min(parts.errors)
    assert parts.error < 0.95 * plain
    rest = weight - parts.quantised.weight() - parts.left @ parts.right
    assert rest.norm().item() == pytest.approx(parts.error, rel=1e-5)


def test_without_iterations_it_is_quantisation_alone():
    weight = matrix()
    parts = decompose(weight, Format(3), 8, settings=Settings(iterations=0))
    assert torch.equal(parts.quantised.weight(), quantise(weight, Format(3)).weight())
    assert not parts.left.any() and not parts.right.any()


def test_equal_fisher_information_gives_the_unweighted_result():
    weight = matrix()
    plain = decompose(weight, Format(3), 8, settings=EXACT)
    ones = decompose(weight, Format(3), 8, torch.ones_like(weight), EXACT)
    assert torch.equal(ones.left, plain.left) and torch.equal(ones.right, plain.right)
    assert torch.equal(ones.quantised.codes, plain.quantised.codes)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_for_fisher_information_of_rank_one_it_is_the_weighted_optimum(shape):
    torch.manual_seed(0)
    weight, a, b = torch.randn(shape), torch.rand(shape[0]) + 0.1, torch.rand(shape[1]) + 0.1
    fisher = torch.outer(a, b)
    left, right = low_rank(weight, 5, fisher, EXACT)
    error = (fisher.sqrt() * (weight - left @ right)).norm()
    dropped = torch.linalg.svdvals(fisher.sqrt() * weight)[5:].norm()  # Eckart and Young
    assert error.item() == pytest.approx(dropped.item(), rel=1e-5)
    unweighted = low_rank(weight, 5, None, EXACT)
    assert error < 0.98 * (fisher.sqrt() * (weight - unweighted[0] @ unweighted[1])).norm()


def test_weighing_lowers_the_weighted_error():
    weight = matrix()
    torch.manual_seed(1)
    fisher = torch.outer(torch.rand(64) ** 4, torch.rand(96) ** 4) + 1e-3 * torch.rand(64, 96)
    ours = decompose(weight, Format(3), 8, fisher, EXACT)
    plain = decompose(weight, Format(3), 8, settings=EXACT)
    rest = weight - plain.quantised.weight() - plain.left @ plain.right
    assert ours.error < 0.9 * (fisher.sqrt() * rest).norm().item()


def test_dead_rows_and_columns_give_finite_factors():
    fisher = torch.ones(64, 96)
    fisher[3], fisher[:, 5] = 0, 0
    parts = decompose(matrix(), Format(3), 8, fisher)
    assert all(torch.isfinite(t).all() for t in (parts.left, parts.right))
    nothing = decompose(matrix(), Format(3), 8, torch.zeros(64, 96), Settings(iterations=1))
    assert nothing.error == 0 and torch.isfinite(nothing.left).all()


def test_the_randomised_decomposition_is_near_the_whole_one():
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(100, 90), full_matrices=False)
    weight = left @ torch.diag(0.8 ** torch.arange(90.0)) @ right
    whole, fast = (low_rank(weight, 8, None, s) for s in (EXACT, Settings()))
    errors = [(weight - a @ b).norm().item() for a, b in (whole, fast)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
