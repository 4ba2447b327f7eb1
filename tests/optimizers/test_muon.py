"""Muon on matrices is torch's Muon, everything else is torch's AdamW."""

import copy

import pytest
import torch
from torch import nn

from ftcli.optimizers.library import LibraryOptimizer
from ftcli.optimizers.muon import Muon


def parameters():
    torch.manual_seed(0)
    shapes = [(32, 16), (16, 48), (64,), (4, 4, 4), (120, 8)]
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def advance(params, *optimizers, first=0, last=4):
    for i in range(first, last):
        torch.manual_seed(i)
        for parameter in params:
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()


def test_each_tensor_moves_as_under_the_optimizer_of_its_kind():
    ours, theirs = parameters(), parameters()
    names = ["q.weight", "lora_A.weight", "norm.weight", "conv.weight", "model.embed_tokens.weight"]
    named = list(zip(names, ours, strict=True))
    advance(ours, Muon(named, lr=0.02, weight_decay=0.1))
    matrices, others = theirs[:2], theirs[2:]
    options = {"lr": 0.02, "weight_decay": 0.1}
    advance(
        theirs,
        torch.optim.Muon(matrices, **options, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, **options),
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_wrapper_hands_it_the_names():
    params = parameters()[:2]
    named = [("lm_head.weight", params[0]), ("q_proj.weight", params[1])]
    wrapper = LibraryOptimizer("ftcli.optimizers.muon.Muon", lr=0.02)
    optimizer = wrapper.build(named, "cpu")
    advance(params, optimizer, last=1)
    assert "exp_avg" in optimizer.state[params[0]]
    assert "momentum_buffer" in optimizer.state[params[1]]


def test_state_round_trip_is_bit_equal():
    whole = parameters()
    optimizer = Muon([{"params": whole[:3], "weight_decay": 0.5}, {"params": whole[3:]}], lr=0.02)
    advance(whole, optimizer)
    saved, weights = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in whole]
    advance(whole, optimizer, first=4, last=7)
    resumed = [nn.Parameter(w) for w in weights]
    other = Muon([{"params": resumed[:3], "weight_decay": 0.5}, {"params": resumed[3:]}], lr=0.9)
    other.load_state_dict(saved)
    advance(resumed, other, first=4, last=7)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_one_state_for_each_tensor_and_the_groups_rates_are_used():
    params = parameters()
    optimizer = Muon(params, lr=0.02)
    advance(params, optimizer, last=1)
    assert set(optimizer.state) == set(params)
    assert set(optimizer.state[params[0]]) == {"momentum_buffer"}
    assert {"exp_avg", "exp_avg_sq"} <= set(optimizer.state[params[2]])
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    advance(params, optimizer, first=1, last=2)
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


def test_the_closure_is_called_and_its_value_returned():
    params = parameters()
    optimizer = Muon(params)

    def closure():
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(
        sum(p.square().sum().item() for p in parameters()), rel=1e-5
    )


def test_steps_of_matrices_have_adamws_size():
    """Root mean square 0.2 of the rate (arXiv 2502.16982, equation 4), whatever the shape."""
    for shape in ((64, 64), (256, 16), (16, 256)):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape)
        Muon([parameter], lr=1.0).step()
        assert parameter.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)
