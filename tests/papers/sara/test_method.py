"""SaRA: which entries are trained, that no other changes, and the second selection."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.optimizers.sparse_adamw import SparseAdamW
from ftcli.optimizers.state import elements
from ftcli.papers.sara.entries import find_entries
from ftcli.papers.sara.method import POSITIONS, SaRA, default_learning_rate


def network(seed: int = 0) -> nn.Module:
    """A matrix above 64 x 64, a convolution, a norm, biases."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(72, 80),
        nn.GELU(), nn.Linear(80, 66),
    )  # fmt: skip


def loss_of(model: nn.Module, step: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(step)
    x = torch.randn(4, 3, 5, 5, generator=random)
    y = torch.randn(4, 66, generator=random)
    return (model(x) - y).square().mean()


def values(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def fit(model: nn.Module, optimizer, steps: range) -> None:
    for step in steps:
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def set_up(method: SaRA, model: nn.Module, optimizer=None, processes: int = 1) -> SaRA:
    """Call `setup` as a run does."""
    run = SimpleNamespace(
        model=model,
        optimizer_builder=SimpleNamespace(optimizer=optimizer),
        accelerator=SimpleNamespace(num_processes=processes),
    )
    method.setup(run)
    return method


def test_the_entries_below_the_threshold_train_and_no_other_moves():
    before = dict(network().named_parameters())
    method, model = SaRA(threshold=0.02), network()
    method.prepare(model)
    small = {n: p.detach().abs() < 0.02 for n, p in before.items()}
    assert sum(v.numel() for v in values(model)) == sum(int(m.sum()) for m in small.values())
    assert torch.equal(loss_of(model), loss_of(network()))
    fit(model, torch.optim.AdamW(values(model), lr=1e-2, weight_decay=0.1), range(5))
    after = dict(method.merge(model).named_parameters())
    assert after.keys() == before.keys()
    for name, was in before.items():
        stays = ~small[name]
        assert torch.equal(after[name][stays], was[stays])
        if small[name].any():
            assert not torch.equal(after[name], was)


def test_a_share_is_a_threshold():
    model = network()
    total = sum(p.numel() for p in model.parameters())
    method = SaRA(share=0.1)
    method.prepare(model)
    by_name = find_entries(model).values()
    assert sum(len(entries.indices) for entries in by_name) == pytest.approx(0.1 * total, abs=20)
    limit = method.describe()["threshold"]
    assert all((entries.values.abs() < limit).all() for entries in by_name)
    with torch.device("meta"):
        shapes = network()
    counted_values = values(SaRA(share=0.1).prepare(shapes))
    assert sum(v.numel() for v in counted_values) == pytest.approx(0.1 * total, abs=20)


def test_it_is_masked_adamw_with_state_for_what_trains():
    """Twenty-five steps beside an AdamW on the whole tensors, restricted to the same entries."""
    options = {"lr": 3e-3, "weight_decay": 0.05, "eps": 1e-8}
    method, ours = SaRA(threshold=0.03), network()
    method.prepare(ours)
    by_name = find_entries(ours)
    sparse = torch.optim.AdamW(values(ours), **options)
    theirs = network()
    dense = SparseAdamW(theirs.parameters(), eps_before_correction=False, **options)
    for name, parameter in theirs.named_parameters():
        if name in by_name:
            dense.restrict(parameter, by_name[name].indices)
        else:
            parameter.requires_grad_(False)
    fit(ours, sparse, range(25))
    fit(theirs, dense, range(25))
    merged = dict(method.merge(ours).named_parameters())
    for name, parameter in theirs.named_parameters():
        assert (merged[name] - parameter).abs().max() < 1e-6, name
    assert elements(sparse) == 2 * sum(len(entries.indices) for entries in by_name.values())
    assert 2 * elements(dense) == 3 * elements(sparse)  # it keeps the positions as well


def test_half_way_what_has_grown_freezes_and_the_optimizer_starts_anew():
    method, model = SaRA(threshold=0.02), network()
    method.prepare(model)
    optimizer = torch.optim.AdamW(values(model), lr=5e-3)
    set_up(method, model, optimizer)
    fit(model, optimizer, range(6))
    state = SimpleNamespace(step=6, max_steps=12, model=model)
    method.before_step(SimpleNamespace(step=5, max_steps=12, model=model))
    counts = {n: len(entries.indices) for n, entries in find_entries(model).items()}
    now = {n: entries.values.detach().clone() for n, entries in find_entries(model).items()}
    with torch.no_grad():
        out = loss_of(model)
        method.before_step(state)
        assert torch.equal(loss_of(model), out) and not optimizer.state
    later = find_entries(model)
    for name, entries in later.items():
        assert len(entries.indices) == int((now[name].abs() < 0.02).sum()) <= counts[name]
        assert (entries.dense.view(-1)[entries.indices].abs() < 0.02).all()
    assert sum(len(entries.indices) for entries in later.values()) < sum(counts.values())
    grown = {n: entries.all_values()[now[n].abs() >= 0.02] for n, entries in later.items()}
    fit(model, optimizer, range(6, 12))
    for name, entries in later.items():
        assert torch.equal(entries.all_values()[now[name].abs() >= 0.02], grown[name])


def test_a_run_goes_on_from_a_state_after_the_new_selection():
    method, model = SaRA(threshold=0.02), network()
    method.prepare(model)
    optimizer = torch.optim.AdamW(values(model), lr=5e-3)
    set_up(method, model, optimizer)
    assert method.state_dict() == {}
    fit(model, optimizer, range(4))
    method.before_step(SimpleNamespace(step=4, max_steps=8, model=model))
    fit(model, optimizer, range(4, 6))
    other, resumed_model = SaRA(threshold=0.02), network()
    other.prepare(resumed_model)
    resumed = torch.optim.AdamW(values(resumed_model), lr=5e-3)
    set_up(other, resumed_model, resumed)
    other.load_trained_tensors(
        resumed_model, {n: t.clone() for n, t in method.get_trained_tensors(model).items()}
    )
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(method.state_dict())
    fit(model, optimizer, range(6, 8))
    fit(resumed_model, resumed, range(6, 8))
    ends = [
        dict(m.merge(n).named_parameters()) for m, n in ((method, model), (other, resumed_model))
    ]
    assert all(torch.equal(p, ends[1][n]) for n, p in ends[0].items())


def test_another_base_is_refused():
    method, model = SaRA(threshold=0.02), network()
    method.prepare(model)
    state = method.get_trained_tensors(model)
    other, base = SaRA(threshold=0.02), network(seed=1)
    other.prepare(base)
    with pytest.raises(UserError, match="another"):
        other.load_trained_tensors(base, state)
    assert state[POSITIONS].dtype == torch.int64


def test_half_precision_weights_do_not_swallow_small_steps():
    method, model = SaRA(threshold=0.02), network().bfloat16()
    method.prepare(model)
    assert {p.dtype for p in values(model)} == {torch.float32}


def test_the_dense_gradient_is_kept_nowhere():
    method, model = SaRA(threshold=0.02), network()
    method.prepare(model)
    loss_of(model).backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    dense = network()
    loss_of(dense).backward()
    gradients = {n: p.grad for n, p in dense.named_parameters()}
    for name, entries in find_entries(model).items():
        assert torch.allclose(entries.values.grad, gradients[name].view(-1)[entries.indices])


def test_the_rate_rule_and_the_share_of_normal_weights():
    found = [default_learning_rate(t) for t in (2e-3, 8e-4, 2e-4)]
    assert found == pytest.approx([4.97e-4, 7.56e-4, 9.32e-4], rel=1e-3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1000, 1000, bias=False))
    nn.init.normal_(model[0].weight, std=0.02)
    SaRA(threshold=5e-3).prepare(model)
    share = values(model)[0].numel() / 1e6
    assert share == pytest.approx(math.erf(5e-3 / (0.02 * 2**0.5)), abs=2e-3)


def test_errors_name_the_cause():
    with pytest.raises(UserError, match="by a threshold or by the share"):
        SaRA()
    with pytest.raises(UserError, match="not a share between"):
        SaRA(share=0.1, reselect_at=1.0)
    with pytest.raises(UserError, match="no entry of"):
        SaRA(threshold=1e-12).prepare(nn.Sequential(nn.Linear(3, 3)))
    method, model = SaRA(threshold=0.02), network()
    method.prepare(model)
    with pytest.raises(UserError, match="several processes"):
        set_up(method, model, processes=2)
