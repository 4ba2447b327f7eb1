"""The nuclear norm of trained entries: value, gradient, and which matrices are drawn."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.papers.sara.entries import find_entries
from ftcli.papers.sara.method import SaRA
from ftcli.papers.sara.penalty import Nuclear, nuclear_norm


def prepare_penalty(min_dim: int = 4) -> tuple[Nuclear, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3), nn.LayerNorm(3))
    SaRA(share=0.5).prepare(model)
    penalty = Nuclear(min_dim=min_dim)
    penalty.setup(SimpleNamespace(seed=0, model=model, trainable=None))
    return penalty, model


def test_the_gradient_of_a_toy_matrix_is_u_v():
    torch.manual_seed(1)
    matrix = torch.randn(4, 3, requires_grad=True)
    norm = nuclear_norm(matrix)
    norm.backward()
    u, s, v = torch.linalg.svd(matrix.detach(), full_matrices=False)
    assert norm.item() == pytest.approx(s.sum().item(), rel=1e-5)
    assert torch.allclose(matrix.grad, u @ v, atol=1e-5)


def test_only_trained_entries_count_and_feel_it():
    penalty, model = prepare_penalty()
    (entries,) = penalty.draw_matrices()
    mask = torch.zeros(entries.shape.numel())
    mask[entries.indices] = 1.0
    masked = entries.dense * mask.view(entries.shape)
    value = penalty(model, {}, None)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(torch.linalg.svdvals(masked).sum().item(), rel=1e-5)
    value.backward()
    u, _, v = torch.linalg.svd(masked, full_matrices=False)
    assert torch.allclose(entries.values.grad, (u @ v).view(-1)[entries.indices], atol=1e-4)
    others = [g for g in find_entries(model).values() if g is not entries]
    assert all(g.values.grad is None for g in others)


def test_every_matrix_above_the_least_size_has_its_turn():
    penalty, _ = prepare_penalty()
    names = set()
    for step in range(30):
        penalty.before_step(SimpleNamespace(step=step))
        (entries,) = penalty.draw_matrices()
        names.add(entries.name)
        assert penalty.draw_matrices() == [entries]
    assert names == {"0.weight", "1.weight"}  # 5 x 3 and the vectors are too small


def test_without_such_matrices_it_says_so():
    with pytest.raises(UserError, match="finds no matrix above 64"):
        prepare_penalty(min_dim=64)


def test_it_shrinks_the_singular_values():
    penalty, model = prepare_penalty()
    before = sum(nuclear_norm(g.matrix()).item() for g in penalty._matrices)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for step in range(20):
        penalty.before_step(SimpleNamespace(step=step))
        penalty(model, {}, None).backward()  # type: ignore[arg-type]
        optimizer.step()
        optimizer.zero_grad()
    assert sum(nuclear_norm(g.matrix()).item() for g in penalty._matrices) < 0.8 * before
