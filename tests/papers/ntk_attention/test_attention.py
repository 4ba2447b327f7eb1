"""The fused form against the paper's formula: masks, overflow, a prefix that it stands for, its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftcli.papers.ntk_attention.attention import (
    attend_with_prefix,
    map_features,
    summarise_prefix,
    take_magnitude,
)

B, H, T, D = 2, 4, 12, 16


class Causal(nn.Module):
    is_causal = True


def draw(seed=0, heads=H, scale=1.0):
    torch.manual_seed(seed)
    query = torch.randn(B, H, T, D) * scale
    key, value = torch.randn(2, B, heads, T, D)
    return query, key, value, torch.rand(H, D), torch.randn(H, D, D)


def fused(query, key, value, k, Z, mask=None, **options):
    out = attend_with_prefix(
        "sdpa", Causal(), query, key, value, mask, k, Z, nn.Identity(), **options
    )
    return out.transpose(1, 2)


def naive(query, key, value, k, Z, allowed=None):
    """Algorithm 2 with sums of exponentials, in float64 and without a maximum."""
    query, key, value, k, Z = (x.double() for x in (query, key, value, k, Z))
    key, value = (x.repeat_interleave(H // x.shape[1], 1) for x in (key, value))
    weights = (query @ key.transpose(2, 3) / D**0.5).exp()
    if allowed is None:
        allowed = torch.ones(T, T, dtype=torch.bool).tril()
    weights = weights * allowed
    u = query / D**0.25
    features = torch.where(u > 0, u + 1, u.exp())  # elu + 1
    top = weights @ value + features @ Z
    return (top / (weights.sum(-1, keepdim=True) + features @ k.abs()[:, :, None])).float()


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_it_is_the_formula(heads):
    states = draw(heads=heads)
    assert (fused(*states) - naive(*states)).abs().max() < 2e-6


def test_masks_of_padded_rows_are_heeded():
    states = draw()
    real = torch.ones(B, T, dtype=torch.bool)
    real[1, :5] = False  # padded on the left
    allowed = torch.ones(T, T, dtype=torch.bool).tril() & real[:, None, None]
    out, expected = fused(*states, mask=allowed), naive(*states, allowed)
    assert (out - expected)[0].abs().max() < 2e-6 and (out - expected)[1, :, 5:].abs().max() < 2e-6
    added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    assert (fused(*states, mask=added) - out)[:, :, 5:].abs().max() < 1e-6
    assert torch.isfinite(out).all()  # a query without keys has the prefix


def test_zeros_are_the_layers_own_attention():
    query, key, value, k, Z = draw()
    own = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert (fused(query, key, value, 0 * k, 0 * Z) - own).abs().max() < 1e-6


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_a_hundred_do_not_overflow(sign):
    query, _, value, k, Z = draw()
    query = 20 * torch.ones_like(query)
    key = sign * query * torch.linspace(0.9, 1.0, T)[:, None]
    key = key * (
        100 / (query @ key.transpose(2, 3) / D**0.5).abs().max()
    )  # all scores from 90 to 100
    out = fused(query, key, value, k, Z)
    scale = naive(query, key, value, k, Z).abs().max()
    assert (out - naive(query, key, value, k, Z)).abs().max() < 1e-5 * scale
    assert torch.isfinite(fused(query, key, value, 0 * k, 0 * Z)).all()


def test_it_is_a_concatenated_prefix_whose_kernel_is_that_of_the_features():
    """The vector k and the matrix Z stand exactly for a prefix with weights phi(q) phi(p_i)."""
    query, key, value, _, _ = draw()
    prefix_keys, prefix_values = torch.randn(2, H, 30, D)
    k, Z = summarise_prefix(prefix_keys, prefix_values)
    row = (query @ key.transpose(2, 3) / D**0.5).exp().tril()
    prefix = map_features(query) @ map_features(prefix_keys).transpose(1, 2)
    weights = torch.cat([prefix, row], -1)
    values = torch.cat([prefix_values.expand(B, -1, -1, -1), value], 2)
    expected = weights / weights.sum(-1, keepdim=True) @ values
    assert (fused(query, key, value, k, Z) - expected).abs().max() < 1e-5


def test_features_are_positive_and_smooth_at_zero():
    x = torch.linspace(-40, 40, 81)[:, None].expand(-1, 16)
    assert (map_features(x) > 0).all()
    assert torch.equal(map_features(torch.zeros(16)), torch.ones(16))
    assert torch.allclose(map_features(torch.full((16,), 6.0)), torch.full((16,), 4.0))  # 6 / 2 + 1


def test_the_magnitude_of_zero_has_a_gradient():
    k = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    take_magnitude(k).sum().backward()
    assert torch.equal(take_magnitude(k), k.abs()) and k.grad.tolist() == [-1, 1, 1]
    own = torch.zeros(1, requires_grad=True)
    own.abs().backward()
    assert own.grad == 0  # why `abs` is not used


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_gradients_are_those_of_the_formula(start):
    gradients = []
    for attend in (fused, naive):
        query, key, value, k, Z = draw()
        # to the right of 0, where |k| has one derivative
        states = (query, key, value, start * k + 1e-9, start * Z)
        leaves = [x.detach().requires_grad_() for x in states]
        attend(*leaves).square().sum().backward()
        gradients.append([x.grad for x in leaves])
    for mine, exact in zip(*gradients, strict=True):
        assert mine.abs().max() > 0 and (mine - exact).abs().max() < 1e-4 * exact.abs().max()


def test_its_cost_does_not_depend_on_the_prefix():
    k, Z = summarise_prefix(*torch.randn(2, H, 5000, D))
    assert k.shape == (H, D) and Z.shape == (H, D, D)
    short = summarise_prefix(*torch.randn(2, H, 5, D))
    assert [x.shape for x in short] == [k.shape, Z.shape]


def test_sinks_of_the_layer_itself_are_refused():
    with pytest.raises(NotImplementedError, match="sinks"):
        fused(*draw(), s_aux=torch.zeros(H))
