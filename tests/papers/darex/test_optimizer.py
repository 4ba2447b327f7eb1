"""AdamR: equal to Adam without a pull, geometric decay without gradients."""

from __future__ import annotations

import pytest
import torch

from ftcli.papers.darex.optimizer import AdamR


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]


def descend(optimizer, values, steps: int) -> None:
    for step in range(steps):
        for value in values:
            value.grad = torch.sin(value.detach() * 3 + step)
        optimizer.step()


def test_without_a_pull_it_is_adam():
    ours, theirs = parameters(), parameters()
    descend(AdamR(ours, lr=1e-2, decay_to_pretrained=0.0), ours, 20)
    descend(torch.optim.Adam(theirs, lr=1e-2), theirs, 20)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_without_gradients_it_decays_to_the_pretrained_weights():
    value = torch.nn.Parameter(torch.zeros(3))
    optimizer = AdamR([value], lr=0.1, decay_to_pretrained=0.5)
    value.grad = torch.zeros(3)
    optimizer.step()
    value.data += 1.0
    for step in range(1, 6):
        optimizer.step()
        assert value.tolist() == pytest.approx([0.95**step] * 3)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_one_step_by_hand(norm):
    """v_bar is one number over both tensors; the pull comes before Adam's step."""
    values = parameters()
    optimizer = AdamR(values, lr=0.01, decay_to_pretrained=0.3, norm=norm)
    descend(optimizer, values, 1)
    start = [value.detach().clone() for value in values]
    origin = [optimizer.state[value]["pretrained"] for value in values]
    descend(optimizer, values, 1)
    second = [optimizer.state[v]["exp_avg_sq"] / (1 - 0.999**2) for v in values]
    size = torch.cat([s.flatten() for s in second]).mean().sqrt()
    for value, before, pre, v in zip(values, start, origin, second, strict=True):
        away = before - pre
        pulled = before - 0.01 * 0.3 / size * (away.sign() if norm == "l1" else away)
        mean = optimizer.state[value]["exp_avg"] / (1 - 0.9**2)
        assert torch.allclose(value, pulled - 0.01 * mean / (v.sqrt() + 1e-8), atol=1e-7)


def test_it_stays_nearer_than_adam():
    near, far = parameters(), parameters()
    descend(AdamR(near, lr=1e-2, decay_to_pretrained=2.0), near, 50)
    descend(AdamR(far, lr=1e-2, decay_to_pretrained=0.0), far, 50)
    start = parameters()
    distances = [sum((a - b).norm() for a, b in zip(v, start, strict=True)) for v in (near, far)]
    assert distances[0] < distances[1]


def test_what_has_no_gradient_stays():
    """Parameters without a gradient do not change and do not count in v_bar."""
    values = parameters()
    copies = [torch.nn.Parameter(values[0].detach().clone())]
    both, single = AdamR(values, lr=0.01), AdamR(copies, lr=0.01)
    both.step()
    for step in range(3):
        for value in (values[0], copies[0]):
            value.grad = torch.cos(value.detach() + step)
        both.step()
        single.step()
    assert torch.equal(values[0], copies[0]) and torch.equal(values[1], parameters()[1])
    assert both.state[values[1]] == {}
