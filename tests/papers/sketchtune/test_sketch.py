"""A sketch of one weight: codes with error feedback, values by groups, and what calibration gains."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.sketchtune.measures import round_rows
from ftcli.papers.sketchtune.sketch import (
    SketchSettings,
    assign_codes,
    factorise_inverse,
    learn_sketch,
    look_up,
    sum_by_code,
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def inputs(count: int, width: int) -> torch.Tensor:
    """Correlated inputs whose columns differ in size."""
    torch.manual_seed(3)
    return torch.randn(count, width) @ torch.randn(width, width) * torch.rand(width) ** 2


@pytest.fixture(scope="module")
def calibrated():
    x = inputs(400, 160)
    torch.manual_seed(4)
    return torch.randn(24, 160) / 12, x.T @ x / len(x)


def weighted_error(weight, other, covariance):
    off = (weight - other).double()
    return (off @ covariance.double() * off).sum().item()


def test_the_factor_is_upper_and_its_square_the_damped_inverse(calibrated):
    _, covariance = calibrated
    factor = factorise_inverse(covariance, 0.1).double()
    damped = covariance.double() + 0.1 * covariance.double().diagonal().mean() * torch.eye(160)
    assert torch.equal(factor, factor.triu())
    assert (factor.T @ factor @ damped - torch.eye(160)).abs().max() < 1e-3


@pytest.mark.parametrize("groups", [1, 4])
def test_feedback_in_blocks_is_that_of_one_column_after_the_other(calibrated, groups):
    weight, covariance = calibrated
    factor = factorise_inverse(covariance, 0.1)
    values = learn_sketch(weight, None, SketchSettings(3, groups), seeded()).values
    codes, left = assign_codes(weight, values, factor), weight.double().clone()
    for j in range(160):  # 160 columns are a whole block of 128 and a part
        book = values[:, j // (160 // groups)].double()
        nearest = (book - left[:, j : j + 1]).abs().argmin(1)
        q = book.gather(1, nearest[:, None])[:, 0]
        error = (left[:, j] - q) / factor[j, j]
        left[:, j:] -= error[:, None] * factor[j, j:].double()
        assert (codes[:, j] == nearest).double().mean() > 0.99  # ties of float32 aside
        left[:, j] = q
    assert (codes.long() < 8).all() and codes.dtype == torch.uint8


@pytest.mark.parametrize("bits", [3, 4])
def test_calibrated_is_below_plain_k_means_which_is_below_rounding(calibrated, bits):
    weight, covariance = calibrated
    full = learn_sketch(weight, covariance, SketchSettings(bits), seeded()).weight()
    plain = learn_sketch(weight, None, SketchSettings(bits), seeded()).weight()
    rounded = round_rows(weight, bits)
    errors = [weighted_error(weight, w, covariance) for w in (full, plain, rounded)]
    assert errors[0] < 0.8 * errors[1] and errors[1] < 0.9 * errors[2], errors


def test_more_groups_have_values_of_their_own_and_a_smaller_error(calibrated):
    weight, covariance = calibrated
    errors = []
    for groups in (1, 2, 4):
        sketch = learn_sketch(weight, covariance, SketchSettings(3, groups), seeded())
        assert sketch.values.shape == (24, groups, 8)
        errors.append(weighted_error(weight, sketch.weight(), covariance))
    assert errors == sorted(errors, reverse=True)
    first = learn_sketch(weight[:, :40], None, SketchSettings(3), seeded())
    whole = learn_sketch(weight, None, SketchSettings(3, 4), seeded())
    assert torch.equal(whole.values[:, :1], first.values)


def test_with_as_many_values_as_weights_it_is_lossless():
    torch.manual_seed(5)
    weight = torch.randn(6, 64)
    sketch = learn_sketch(weight, None, SketchSettings(4, 4), seeded())
    assert torch.allclose(sketch.weight(), weight, atol=1e-6)
    with pytest.raises(ValueError, match="groups_per_row=3 does not divide rows of 64"):
        learn_sketch(weight, None, SketchSettings(4, 3))


def test_inputs_that_are_always_zero_cost_nothing():
    x, weight = inputs(200, 32), torch.randn(8, 32)
    x[:, 5] = 0
    weight[:, 5] = 100  # a code for it would be lost to the others
    sketch = learn_sketch(weight, x.T @ x / 200, SketchSettings(4), seeded())
    assert sketch.values.max() < 10 and torch.isfinite(sketch.weight()).all()


def test_the_gradient_of_a_value_is_the_sum_over_the_weights_that_share_it():
    torch.manual_seed(6)
    sketch = learn_sketch(torch.randn(5, 24), None, SketchSettings(2, 2), seeded())
    values = sketch.values.clone().requires_grad_()
    gradient = torch.randn(5, 24)
    (look_up(values, sketch.codes) * gradient).sum().backward()
    summed = sum_by_code(gradient, sketch.codes, sketch.values)
    assert torch.allclose(values.grad, summed, atol=1e-6)
    by_hand = gradient[2, 12:][sketch.codes[2, 12:] == 1].sum()
    assert summed[2, 1, 1].item() == pytest.approx(by_hand.item(), abs=1e-5)
