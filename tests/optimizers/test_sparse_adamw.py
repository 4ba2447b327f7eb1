"""AdamW on chosen entries: its state, the entries it updates, and equality with AdamW."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from ftcli.optimizers.sparse_adamw import SparseAdamW
from ftcli.optimizers.state import elements, nbytes

RATES = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def weights(seed=0, dtype=torch.float32):
    return nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)).to(dtype))


def walk(optimizer, param, steps=4, start=0):
    for index in range(start, start + steps):
        noise = torch.randn(6, 5, generator=torch.Generator().manual_seed(100 + index))
        param.grad = noise.to(param.dtype)
        optimizer.step()


def at(*positions):
    return torch.tensor(positions, dtype=torch.int32)


@pytest.mark.parametrize("every_entry", [False, True])
def test_unrestricted_or_over_all_entries_it_is_adamw(every_entry):
    ours, torchs = weights(), weights()
    sparse = SparseAdamW([ours], **RATES, eps_before_correction=False)
    if every_entry:
        sparse.restrict(ours, torch.arange(30))
    walk(sparse, ours)
    walk(torch.optim.AdamW([torchs], **RATES), torchs)
    assert (ours - torchs).abs().max() < 1e-6


def test_the_old_form_divides_by_the_uncorrected_root_plus_eps():
    param, (lr, eps) = nn.Parameter(torch.tensor([1.0])), (0.1, 0.5)
    optimizer = SparseAdamW([param], lr=lr, betas=(0.9, 0.99), eps=eps)
    m = v = 0.0
    expected = 1.0
    for t, g in enumerate((2.0, -1.0), 1):
        param.grad = torch.tensor([g])
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        expected -= lr * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t) * m / (v**0.5 + eps)
        assert param.item() == pytest.approx(expected, rel=1e-6)


def test_only_the_chosen_entries_move_and_have_state():
    param, dense = weights(), weights()
    before, chosen = param.detach().clone(), at(1, 7, 28)
    optimizer = SparseAdamW([param], **RATES)
    optimizer.restrict(param, chosen)
    assert elements(optimizer) == 2 * 3 + 3 and nbytes(optimizer) == 4 * (2 * 3 + 3) + 4
    walk(optimizer, param)
    walk(SparseAdamW([dense], **RATES), dense)
    others = torch.ones(30, dtype=torch.bool)
    others[chosen] = False
    assert torch.equal(param.view(-1)[others], before.view(-1)[others])
    assert torch.equal(
        param.view(-1)[chosen], dense.view(-1)[chosen]
    )  # dense decay and moments too
    assert elements(optimizer) == 2 * 3 + 3


def test_a_new_choice_keeps_what_stays_zeroes_what_enters_and_counts_on():
    param = weights()
    optimizer = SparseAdamW([param], **RATES)
    optimizer.restrict(param, at(1, 7, 28))
    walk(optimizer, param)
    old = {k: v.clone() for k, v in optimizer.state[param].items()}
    optimizer.restrict(param, at(0, 7, 28, 29))
    state = optimizer.state[param]
    for name in ("exp_avg", "exp_avg_sq"):
        kept = old[name]
        assert state[name].tolist() == [0, kept[1].item(), kept[2].item(), 0]
    assert state["step"] == 4
    optimizer.restrict(param, None)
    dense = optimizer.state[param]["exp_avg"]
    assert dense.shape == (6, 5) and int((dense != 0).sum()) == 2
    assert dense.view(-1)[28] == old["exp_avg"][2]
    optimizer.restrict(param, at(28))
    assert optimizer.state[param]["exp_avg"].item() == old["exp_avg"][2]


def test_seeded_entries_are_as_old_as_said():
    """Seeded with what two updates give, an entry goes on as if it had had them."""
    param, other = weights(), weights()
    reference = SparseAdamW([other], **RATES)
    walk(reference, other, 2)
    old = {k: reference.state[other][k].flatten() for k in ("exp_avg", "exp_avg_sq")}
    optimizer = SparseAdamW([param], **RATES)
    slots = torch.tensor([3, 4])
    optimizer.seed(param, slots, old["exp_avg"][slots], old["exp_avg_sq"][slots], 2.0)
    with torch.no_grad():
        param.copy_(other)
    walk(optimizer, param, 3, start=2)
    walk(reference, other, 3, start=2)
    same = (param - other).abs().flatten()
    assert same[slots].max() < 1e-6 < same[[0, 1, 2]].min()
    assert optimizer.state[param]["step"].flatten()[:5].tolist() == [3, 3, 3, 5, 5]


@pytest.mark.parametrize("aged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reloaded_state_goes_on_to_the_bit(dtype, aged):
    param = weights(dtype=dtype)
    optimizer = SparseAdamW([param], **RATES)
    optimizer.restrict(param, at(1, 7, 28))
    walk(optimizer, param)
    if aged:
        moment = torch.full((1,), 0.3)
        optimizer.seed(param, torch.tensor([1]), moment, moment, 2.5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = nn.Parameter(param.detach().clone())
    resumed = SparseAdamW([twin], **RATES)
    resumed.restrict(twin, at(0, 2))  # another choice, as a new setup makes
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.support(twin).dtype == torch.int32 and resumed.support(twin).tolist() == [
        1,
        7,
        28,
    ]
    assert resumed.state[twin]["exp_avg"].dtype == torch.float32
    walk(optimizer, param, 3, start=4)
    walk(resumed, twin, 3, start=4)
    assert torch.equal(param, twin)
    for name, value in optimizer.state[param].items():
        assert torch.equal(value, resumed.state[twin][name]), name


def test_master_values_keep_updates_that_half_precision_rounds_away():
    moved = {}
    for master in (False, True):
        param = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
        optimizer = SparseAdamW([param], lr=1e-4, master_weights=master)
        optimizer.restrict(param, at(0, 5))
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        moved[master] = param.detach().float()
    assert torch.equal(moved[False], torch.ones(8))
    assert moved[True][[0, 5]].tolist() == pytest.approx([0.99, 0.99], abs=0.004)
    assert moved[True][1] == 1 and optimizer.state[param]["master"].shape == (2,)


def test_parameters_without_a_gradient_are_left_alone():
    param, idle = weights(), weights(1)
    before = idle.detach().clone()
    optimizer = SparseAdamW([param, idle], **RATES)
    walk(optimizer, param)
    assert torch.equal(idle, before) and idle not in optimizer.state


@pytest.mark.parametrize("wrong", [[3, 1], [1, 1], [-1, 2], [0, 30], []])
def test_positions_that_are_none_are_refused(wrong):
    param = weights()
    with pytest.raises(ValueError, match="position"):
        SparseAdamW([param]).restrict(param, torch.tensor(wrong, dtype=torch.int64))
