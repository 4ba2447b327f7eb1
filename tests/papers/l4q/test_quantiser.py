"""L4Q's rounding: forward against explicit steps, backward against autograd, what backward keeps."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from ftcli.papers.l4q.quantiser import (
    FLOOR,
    RoundedProduct,
    bounds,
    initial_scale,
    round_weight,
    sum_weight,
)

BITS, OUT, IN, GROUP, R, ALPHA = (2, 3, 4, 8), 12, 48, 16, 3, 0.7


def parts(bits, start="lsq", dtype=torch.float64):
    """x, W0, A, B, s, b; some weights lie outside the range and some offsets are not 0."""
    torch.manual_seed(bits)
    base = torch.randn(OUT, IN, dtype=dtype)
    a, b = (0.3 * torch.randn(*shape, dtype=dtype) for shape in ((R, IN), (OUT, R)))
    scale = initial_scale(base, bits, GROUP, start).to(dtype)
    offset = 0.2 * scale * torch.randn_like(scale)
    x = torch.randn(2, 5, IN, dtype=dtype)
    return [t.requires_grad_() if t is not base else t for t in (x, base, a, b, scale, offset)]


def straight_through(x, base, a, b, scale, offset, bits):
    """The same by autograd: rounding passes gradients through, torch.clamp masks them."""
    s, shift = (t.repeat_interleave(GROUP, 1) for t in (scale, offset))
    clamped = ((base + ALPHA * b @ a - shift) / s).clamp(*bounds(bits))
    return linear(x, (clamped + (clamped.round() - clamped).detach()) * s + shift)


@pytest.mark.parametrize("bits", BITS)
def test_forward_is_the_product_with_the_explicitly_rounded_weight(bits):
    x, base, a, b, scale, offset = parts(bits)
    weight = base + ALPHA * (b @ a)
    expected = torch.empty_like(weight)
    for row in range(OUT):
        for column in range(IN):
            s, shift = scale[row, column // GROUP], offset[row, column // GROUP]
            q = min(max((weight[row, column] - shift) / s, bounds(bits)[0]), bounds(bits)[1])
            expected[row, column] = s * torch.as_tensor(q).round() + shift
    out = RoundedProduct.apply(x, base, a, b, scale, offset, ALPHA, bits)
    assert (out - linear(x, expected)).abs().max() < 1e-12


@pytest.mark.parametrize("bits", BITS)
def test_backward_is_that_of_a_straight_through_reference(bits):
    tensors = parts(bits)
    inputs = [t for t in tensors if t.requires_grad]
    out = torch.randn(2, 5, OUT, dtype=torch.float64)
    ours = torch.autograd.grad(RoundedProduct.apply(*tensors, ALPHA, bits), inputs, out)
    theirs = torch.autograd.grad(straight_through(*tensors, bits), inputs, out)
    assert max((m - t).abs().max() for m, t in zip(ours, theirs, strict=True)) < 1e-10
    ratio = round_weight(sum_weight(*tensors[1:4], ALPHA), *tensors[4:], bits).ratio
    outside = (ratio < bounds(bits)[0]) | (ratio > bounds(bits)[1])
    assert 0 < outside.double().mean() < 0.5 or bits == 8  # both cases of the mask are there
    assert all(t.abs().max() > 0 for t in (ours if bits < 8 else ours[:4]))


def test_a_weight_at_the_end_of_the_range_is_not_masked():
    base = torch.tensor([[-4.0, 3.0, 3.4, -4.4]])
    a, b = torch.zeros(1, 4), torch.ones(1, 1, requires_grad=True)
    a.requires_grad_()
    scale, offset = torch.ones(1, 1), torch.zeros(1, 1)
    RoundedProduct.apply(torch.ones(1, 4), base, a, b, scale, offset, 1.0, 3).backward()
    assert a.grad.tolist() == [[1, 1, 0, 0]]  # 3.4 rounds to 3, and is clipped all the same


@pytest.mark.parametrize("bits", BITS)
def test_the_start_clips_nothing_and_is_off_by_half_a_step(bits):
    torch.manual_seed(0)
    base = torch.randn(300, 128)
    scale = initial_scale(base, bits, 32)
    rounded = round_weight(base, scale, torch.zeros_like(scale), bits)
    low, high = bounds(bits)
    assert rounded.ratio.min() >= low and rounded.ratio.max() <= high
    steps = ((rounded.weight - base).unflatten(1, (-1, 32)) / rounded.scale).abs()
    assert steps.max() <= 0.5 + 1e-4
    wider = base.unflatten(1, (-1, 32)) / (0.999 * scale).unsqueeze(-1)
    clipped = (wider < low) | (wider > high)
    assert clipped.any(-1).all()  # no smaller scale would do


def test_the_start_of_lsq_clips_outliers():
    torch.manual_seed(0)
    base = torch.randn(8, 128)
    base[:, 0] = 10.0
    scale = initial_scale(base, 4, 128, "lsq")
    assert (round_weight(base, scale, torch.zeros_like(scale), 4).ratio > bounds(4)[1]).any()
    deviation, mean = base.std(1, correction=0), base.mean(1)
    assert torch.allclose(scale[:, 0], (mean.abs() + 3 * deviation) / 8, rtol=1e-5)


def test_groups_of_zeros_and_negative_scales_stay_at_the_floor():
    scale = initial_scale(torch.zeros(2, 32), 4, 16)
    assert (scale == FLOOR).all()
    rounded = round_weight(torch.ones(2, 32), -scale, torch.zeros_like(scale), 4)
    assert torch.isfinite(rounded.weight).all() and (rounded.scale == FLOOR).all()


def test_backward_keeps_x_and_the_parameters_and_no_other_matrix():
    x, base, a, b, scale, offset = parts(4, dtype=torch.float32)
    known, kept = {t.data_ptr() for t in (x, base, a, b, scale, offset)}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        RoundedProduct.apply(x, base, a, b, scale, offset, ALPHA, 4)
    assert {t.data_ptr() for t in kept} == known
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        straight_through(x, base, a, b, scale, offset, 4)
    assert any(t.data_ptr() not in known and t.numel() >= OUT * IN for t in kept)


def test_no_gradient_reaches_a_while_b_is_zero():
    x, base, a, b, scale, offset = parts(4)
    zero = torch.zeros_like(b).requires_grad_()
    RoundedProduct.apply(x, base, a, zero, scale, offset, ALPHA, 4).sum().backward()
    assert a.grad.abs().max() == 0 and zero.grad.abs().max() > 0
