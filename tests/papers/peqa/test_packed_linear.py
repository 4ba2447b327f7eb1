"""A linear layer of packed integers: its product, the gradient of its scales, what it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftcli.papers.peqa.packed import apply_scale
from ftcli.papers.peqa.packed_linear import PackedLinear


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("group_size", [None, 16])
def test_a_packed_linear_computes_with_the_weight_it_stands_for(kind, group_size):
    linear = nn.Linear(48, 12) if kind is nn.Linear else Conv1D(12, 48)
    nn.init.normal_(linear.weight)
    nn.init.normal_(linear.bias)
    layer, x = PackedLinear(linear, 4, group_size, "minmax"), torch.randn(2, 5, 48)
    plain = layer.to_plain()
    assert type(plain) is kind and plain.weight.shape == linear.weight.shape
    assert torch.allclose(layer(x), plain(x), atol=1e-5)
    weight = plain.weight.T if kind is Conv1D else plain.weight
    assert torch.equal(weight, apply_scale(layer.integers(), layer.scale))


@pytest.mark.parametrize("group_size", [None, 16])
def test_gradients_are_those_of_autograd_through_scale_times_integers(group_size):
    layer = PackedLinear(nn.Linear(48, 12).double(), 3, group_size, "mse")
    layer.scale.data = layer.scale.data.double()
    x = torch.randn(2, 5, 48, dtype=torch.float64, requires_grad=True)
    shift = (0.01 * torch.randn_like(layer.scale)).requires_grad_()
    out = torch.randn(2, 5, 12, dtype=torch.float64)
    ours = torch.autograd.grad(layer(x, shift), (x, shift), out)
    weight = apply_scale(layer.integers(torch.float64), layer.scale + shift)
    theirs = torch.autograd.grad(nn.functional.linear(x, weight, layer.bias), (x, shift), out)
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("group_size", [None, 16])
def test_no_dense_weight_is_kept_for_the_gradient(group_size):
    layer, kept = PackedLinear(nn.Linear(48, 64), 4, group_size, "minmax"), []
    shift = torch.zeros_like(layer.scale, requires_grad=True)
    x = torch.randn(3, 48)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x, shift)
    assert max(t.numel() for t in kept) < 64 * 48
    assert any(t is x or t.data_ptr() == x.data_ptr() for t in kept)


def test_bfloat16_activations_multiply_exact_integers():
    layer = PackedLinear(nn.Linear(48, 12, bias=False), 8, None, "minmax")
    x = torch.zeros(1, 48, dtype=torch.bfloat16)
    x[0, 5] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    expected = (layer.integers(torch.float32)[:, 5] * layer.scale[:, 0]).bfloat16()
    assert out.dtype == torch.bfloat16 and torch.equal(out[0], expected)


def test_on_the_meta_device_there_are_shapes():
    layer = PackedLinear(nn.Linear(4096, 4096, device="meta"), 3, 128, "mse")
    assert layer.weight.shape == (4096, 1536) and layer.scale.shape == (4096, 32)
    assert layer(torch.empty(2, 4096, device="meta")).shape == (2, 4096)
