"""Hooks read what passes only while they are attached, once a call, and hold nothing afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ftcli.core.hooks import Probes, hooks_disabled, in_backward


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_inputs_outputs_and_their_gradients(model):
    x = torch.randn(5, 4, requires_grad=True)
    modules = {"mid": model[1]}
    kinds = ("input", "output", "input_gradient", "output_gradient")
    probes = {kind: Probes(modules, what=kind) for kind in kinds}
    for probe in probes.values():
        probe.begin()
    model(x).sum().backward()
    readings = {kind: probe.take()["mid"] for kind, probe in probes.items()}
    assert all(len(tensors) == 1 for tensors in readings.values())
    seen = {kind: tensors[0].detach() for kind, tensors in readings.items()}
    assert torch.equal(seen["input"], model[0](x).detach())
    assert torch.equal(seen["output"], seen["input"].tanh())
    expected = model[2].weight.expand(5, 6)
    assert torch.allclose(seen["output_gradient"], expected)
    assert torch.allclose(seen["input_gradient"], expected * (1 - seen["output"] ** 2))


def test_what_was_read_carries_its_graph(model):
    with Probes({"mid": model[1]}) as probes:
        model(torch.randn(5, 4))
        probes.take()["mid"][0].square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0 and model[2].weight.grad is None


def test_nothing_is_read_before_begin_after_end_or_while_disabled(model):
    probes = Probes({"mid": model[1]})
    model(torch.randn(5, 4))
    assert hooks(model) == 0 and probes.take() == {}
    with probes:
        probes.begin()  # a second call attaches no second hook
        assert hooks(model) == 1
        with hooks_disabled():
            model(torch.randn(5, 4))
        assert probes.take() == {}
        model(torch.randn(5, 4))
        model(torch.randn(5, 4))
        assert len(probes.take()["mid"]) == 2
        model(torch.randn(5, 4))
        probes.begin()  # drops what was read
        assert probes.take() == {}
    assert hooks(model) == 0


def test_hooks_are_removed_also_when_the_block_fails(model):
    with pytest.raises(RuntimeError), Probes({"mid": model[1]}):
        model(torch.randn(5, 3))
    assert hooks(model) == 0


def test_a_gradient_that_arrives_after_the_end_is_not_kept(model):
    probes = Probes({"mid": model[1]}, what="output_gradient")
    with probes:
        out = model(torch.randn(5, 4)).sum()
    out.backward()
    assert probes.take() == {}


@pytest.mark.parametrize("what", ["output", "output_gradient"])
def test_a_recomputation_is_not_read_twice_and_gives_the_same_gradients(model, what):
    x, calls, gradients = torch.randn(5, 4), [], []

    def read(name, tensor):
        calls.append(in_backward())
        return tensor.square().sum()

    for forward in (lambda: model(x), lambda: checkpoint(model, x, use_reentrant=False)):
        calls.clear()
        model.zero_grad()
        with Probes({"mid": model[1]}, read, what) as probes:
            out = forward().sum()
            if what == "output":
                out = out + probes.take()["mid"][0]
            out.backward()
            readings = probes.take()
        assert (what == "output" and readings == {}) or len(readings["mid"]) == 1
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert what != "output" or calls == [False, True]  # in the forward pass, and once in backward
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_nothing_is_held_over_steps(model):
    probes, seen = Probes({"mid": model[1]}), []

    def read(name, tensor):
        seen.append(weakref.ref(tensor))
        return tensor

    probes = Probes({"mid": model[1]}, read)
    for _ in range(3):
        probes.begin()
        loss = model(torch.randn(5, 4)).sum() + sum(r[0].sum() for r in probes.take().values())
        loss.backward()
        del loss
        gc.collect()
        assert all(ref() is None for ref in seen)
        probes.end()
    assert len(seen) == 3
