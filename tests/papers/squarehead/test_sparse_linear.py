"""Sparse layers compute what dense ones do, and their bytes are counted by hand."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.squarehead.measures import _mpt_7b, compare_times
from ftcli.papers.squarehead.sparse_linear import SparseLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7,)])
def test_outputs_are_those_of_the_dense_layer(bias, shape):
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    linear.weight *= torch.rand_like(linear.weight) > 0.8
    sparse, x = SparseLinear(linear), torch.randn(*shape, 96)
    assert sparse.rows.values().numel() == int((linear.weight != 0).sum())
    assert sparse(x).shape == linear(x).shape
    assert torch.allclose(sparse(x), linear(x), atol=1e-6)


def test_the_size_of_mpt_7b():
    from ftcli.models.anatomy import Anatomy

    model = _mpt_7b()
    assert sum(p.numel() for p in model.parameters()) == 6_649_286_656
    assert sum(li.weights for li in Anatomy(model).block_linears) == 32 * 12 * 4096**2


def test_what_takes_longer_has_a_ratio_above_one():
    small, large = torch.ones(4, 4), torch.ones(400, 400)
    assert compare_times(lambda: large @ large, lambda: small @ small) > 1
