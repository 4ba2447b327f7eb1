"""Rounding to packed integers: range, error, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftcli.models.packed_codes import PACKS, group_count
from ftcli.papers.peqa.packed import bits_per_weight, quantise, stored_bytes
from ftcli.papers.peqa.packed_linear import PackedLinear

BITS = sorted(PACKS)


def matrix(rows=12, columns=48, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows, columns) * torch.rand(rows, 1) + 0.1 * torch.randn(rows, 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [None, 16])
def test_integers_are_within_their_range_and_the_rounding_is_the_nearest(bits, group_size):
    weight = matrix()
    rounded = quantise(weight, bits, group_size, "minmax")
    groups = group_count(48, group_size)
    integers = rounded.integers().unflatten(1, (groups, -1)).int()
    zero = rounded.zero.int().unsqueeze(-1)
    assert (integers >= -zero).all() and (integers <= 2**bits - 1 - zero).all()
    # a zero point rounded the wrong way clamps an end by half a step more
    error = (rounded.weight() - weight).abs().unflatten(1, (groups, -1))
    assert (error <= 1.0001 * rounded.scale.unsqueeze(-1)).all()
    inside = (integers > -zero) & (integers < 2**bits - 1 - zero)
    assert (error <= 0.5001 * rounded.scale.unsqueeze(-1))[inside].all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [None, 16])
def test_the_search_never_loses_to_minmax_in_any_group(bits, group_size):
    weight = matrix(64)

    def error(search):
        off = quantise(weight, bits, group_size, search).weight() - weight
        return off.square().unflatten(1, (group_count(48, group_size), -1)).sum(-1)

    assert (error("mse") <= error("minmax") * (1 + 1e-6)).all()
    if bits <= 3:
        assert error("mse").sum() < 0.95 * error("minmax").sum()


def test_zeros_and_rows_of_one_sign_are_kept():
    weight = torch.stack([torch.zeros(8), torch.arange(8.0), -torch.arange(8.0)])
    assert torch.equal(quantise(weight, 3).weight(), weight)


def test_rows_that_are_no_whole_groups_and_unknown_bits_are_refused():
    with pytest.raises(ValueError, match="group_size=32 does not divide rows of 48 weights"):
        quantise(matrix(), 4, 32)
    with pytest.raises(ValueError, match="no packing for 5 bits"):
        quantise(matrix(), 5)


def test_sizes():
    assert stored_bytes(4096, 11008, 4, None, 2, 2) == 4096 * (11008 // 2 + 4)
    assert bits_per_weight(4096, 3, 128, scale_bytes=2) == 3 + 8 * 3 / 128
    layer = PackedLinear(nn.Linear(48, 12), 3, 16, "mse")
    held = sum(p.numel() * p.element_size() for p in (layer.weight, layer.scale, layer.zero))
    assert held == stored_bytes(12, 48, 3, 16)
