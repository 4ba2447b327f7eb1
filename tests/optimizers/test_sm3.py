"""SM3: its bound on second moments, its memory, and its sparse form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftcli.optimizers.sm3 import SM3
from ftcli.optimizers.state import elements

SHAPE = (5, 4)


def gradients(steps):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) for _ in range(steps)]


def test_two_steps_of_a_matrix_by_hand():
    param, (r, c) = nn.Parameter(torch.zeros(SHAPE)), (torch.zeros(5), torch.zeros(4))
    optimizer, expected = SM3([param], lr=0.1, eps=1e-8), torch.zeros(SHAPE)
    for g in gradients(2):
        param.grad = g.clone()
        optimizer.step()
        nu = torch.minimum(r[:, None], c[None]) + g**2
        r, c = nu.amax(1), nu.amax(0)
        expected -= 0.1 * g / (nu + 1e-8).sqrt()
    assert (param - expected).abs().max() < 1e-6
    assert torch.equal(optimizer.get_accumulators(param)[0], r) and torch.equal(
        optimizer.get_accumulators(param)[1], c
    )


def test_accumulators_bound_the_sum_of_squares():
    """What the paper proves of it: Adagrad's accumulator never exceeds SM3's."""
    param, total = nn.Parameter(torch.zeros(SHAPE)), torch.zeros(SHAPE)
    optimizer = SM3([param])
    for g in gradients(6):
        param.grad = g
        optimizer.step()
        total += g**2
        rows, columns = optimizer.get_accumulators(param)
        assert bool((torch.minimum(rows[:, None], columns[None]) >= total - 1e-5).all())


def test_a_vector_is_adagrad_and_scalars_work():
    param, scalar = nn.Parameter(torch.ones(3)), nn.Parameter(torch.tensor(1.0))
    twin = nn.Parameter(torch.ones(3))
    optimizer, adagrad = SM3([param, scalar], lr=0.1), torch.optim.Adagrad([twin], lr=0.1, eps=0.0)
    for g in torch.tensor([[1.0, 2.0, -3.0], [0.5, 1.0, 1.0]]):
        param.grad, twin.grad, scalar.grad = g.clone(), g.clone(), g[0].clone()
        optimizer.step()
        adagrad.step()
    assert (param - twin).abs().max() < 1e-5 and scalar < 1


def test_entries_of_a_matrix_move_as_in_the_matrix_whose_other_gradients_are_zero():
    indices = torch.tensor([1, 6, 7, 19], dtype=torch.int32)
    values, dense = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(SHAPE))
    sparse, full = SM3([values], lr=0.1, weight_decay=0.5), SM3([dense], lr=0.1, weight_decay=0.5)
    sparse.set_layout(values, indices, SHAPE)
    for g in gradients(5):
        values.grad = g.flatten()[indices]
        dense.grad = torch.zeros(20).index_copy(0, indices.long(), values.grad).view(SHAPE)
        sparse.step()
        full.step()
    assert (values - dense.flatten()[indices]).abs().max() < 1e-6
    assert all(
        torch.allclose(a, b)
        for a, b in zip(sparse.get_accumulators(values), full.get_accumulators(dense), strict=True)
    )


@pytest.mark.parametrize(("momentum", "more"), [(0.0, 0), (0.9, 10)])
def test_state_is_rows_plus_columns_however_many_entries(momentum, more):
    values = nn.Parameter(torch.zeros(10))
    optimizer = SM3([values], momentum=momentum)
    optimizer.set_layout(values, torch.arange(10), SHAPE)
    values.grad = torch.ones(10)
    optimizer.step()
    assert elements(optimizer) == sum(SHAPE) + more
    optimizer.forget(values, torch.tensor([2, 3]))
    if momentum:
        assert optimizer.state[values]["momentum"].count_nonzero() == 8


def test_a_reloaded_state_goes_on_to_the_bit_in_half_precision():
    def begin(start):
        values = nn.Parameter(start.clone())
        optimizer = SM3([values], lr=0.1, momentum=0.5)
        optimizer.set_layout(values, torch.arange(0, 20, 2), SHAPE)
        return values, optimizer

    def go(values, optimizer, steps):
        for g in steps:
            values.grad = g.flatten()[::2].bfloat16()
            optimizer.step()

    values, optimizer = begin(torch.zeros(10, dtype=torch.bfloat16))
    go(values, optimizer, gradients(6)[:3])
    twin, resumed = begin(values.detach())
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.get_accumulators(twin)[0].dtype == torch.float32
    go(values, optimizer, gradients(6)[3:])
    go(twin, resumed, gradients(6)[3:])
    assert torch.equal(values, twin)
