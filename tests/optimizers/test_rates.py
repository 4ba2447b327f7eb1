"""Rates of single parameters, in every packaged optimizer."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.config import build
from ftcli.core.errors import UserError
from ftcli.optimizers.rates import list_trained, scale_rates
from tests.optimizers.test_library import NAMES, node, take_step, through_disk


def start(name: str, factors: dict[str, float]) -> SimpleNamespace:
    torch.manual_seed(0)
    model = nn.ModuleDict({"one": nn.Linear(64, 64), "two": nn.Linear(64, 64)})
    named = list(model.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = build(node(name)).build(named, "cpu")
    scale_rates(optimizer, factors, model)
    return SimpleNamespace(model=model, named=named, optimizer=optimizer)


def advance(run: SimpleNamespace, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    for _, parameter in run.named:
        parameter.grad = torch.randn_like(parameter)
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    take_step(run)
    return {name: p.detach().clone() for name, p in run.named}


def takes_gradients(name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = build(node(name)).build([("w", nn.Parameter(torch.ones(8, 8)))], "cpu")
    return getattr(built, "uses_backward", True) and bool(built.param_groups[0]["params"])


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_of_zero_holds_a_parameter_and_leaves_the_others(name):
    if not takes_gradients(name):
        pytest.skip("it takes one rate, or no step")
    factors = {"one.weight": 0.0, "two.bias": 1.0}
    plain, scaled = start(name, {}), start(name, factors)
    before = scaled.named[0][1].detach().clone()
    for seed in (1, 2):
        expected, found = advance(plain, seed), advance(scaled, seed)
    assert torch.equal(found["one.weight"], before)
    assert not torch.equal(expected["one.weight"], before)
    if name not in ("schedulefree", "adamr"):  # those have one figure for all groups
        assert torch.equal(expected["two.weight"], found["two.weight"])
    again = start(name, factors)
    again.model.load_state_dict(scaled.model.state_dict())
    again.optimizer.load_state_dict(through_disk(scaled.optimizer.state_dict()))
    first, second = advance(scaled, 3), advance(again, 3)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_calls_multiply_and_keep_the_other_settings():
    run = start("adamw", {"one.weight": 0.5})
    scale_rates(run.optimizer, {"one.weight": 0.1, "two.weight": 3.0}, run.model)
    rates = {
        id(p): (group["initial_lr"], group["weight_decay"])
        for group in run.optimizer.param_groups
        for p in group["params"]
    }
    base = run.optimizer.param_groups[0]["initial_lr"]
    for name, factor in {"one.weight": 0.05, "two.weight": 3.0, "one.bias": 1.0}.items():
        assert rates[id(dict(run.named)[name])][0] == pytest.approx(base * factor)
    assert len(rates) == len(run.named)


def test_an_optimizer_of_one_rate_is_refused():
    with pytest.raises(UserError, match="one rate") as caught:
        start("mezo", {"one.weight": 0.5})
    assert "optimizer=adamw" in str(caught.value)


def test_a_frozen_model_has_no_rates():
    with pytest.raises(UserError, match="nothing is trainable"):
        list_trained(nn.Linear(2, 2).requires_grad_(False))
