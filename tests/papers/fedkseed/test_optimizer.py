"""KSeed: steps along a pool of directions, and weights rebuilt from one scalar for each seed."""

import math

import pytest
import torch
from torch import nn

from ftcli.optimizers.mezo import SEEDS, MeZO
from ftcli.papers.fedkseed.optimizer import KSeed, draw_candidates


def parameters():
    torch.manual_seed(0)
    return [
        ("a.weight", nn.Parameter(torch.randn(20, 30))),
        ("b.bias", nn.Parameter(torch.randn(30))),
    ]


def loss_of(named):
    return lambda: sum((p - 1).square().sum() for _, p in named)


def values(named):
    return torch.cat([p.detach().flatten() for _, p in named])


def test_candidates_are_different_and_known_from_one_seed():
    seeds = draw_candidates(4096, 7)
    assert len(set(seeds)) == 4096 and max(seeds) < SEEDS
    assert seeds == draw_candidates(4096, 7) != draw_candidates(4096, 8)


@pytest.mark.parametrize("copies", [0, 2**20])
def test_the_weights_are_the_start_and_one_scalar_a_seed(copies):
    named, rebuilt = parameters(), parameters()
    optimizer = KSeed(named, lr=1e-4, pool=8, copies=copies)
    sums, drawn = [0.0] * 8, []
    for _ in range(40):
        optimizer.step(loss_of(named))
        sums[optimizer.index] += optimizer.last_directions[0].slope
        drawn.append(optimizer.index)
    KSeed(rebuilt, lr=1e-4, pool=8).apply_sums(sums)
    assert len(set(drawn)) == 8
    assert torch.allclose(values(named), values(rebuilt), atol=1e-5)
    assert not torch.allclose(values(named), values(parameters()), atol=1e-2)


def test_the_order_of_the_replay_changes_nothing_beyond_rounding():
    ahead, back = parameters(), parameters()
    sums = torch.randn(16).tolist()
    KSeed(ahead, lr=1e-2, pool=16).apply_sums(sums)
    other = KSeed(back, lr=1e-2, pool=16)
    other.pool.reverse()
    other.apply_sums(sums[::-1])
    assert torch.allclose(values(ahead), values(back), atol=1e-6)


def test_a_step_is_mezos_along_the_candidate():
    named, plain = parameters(), parameters()
    optimizer = KSeed(named, lr=1e-4, pool=4, seed=3)
    optimizer.step(loss_of(named))
    MeZO(plain, lr=1e-4, eps=5e-4).replay(optimizer.last_directions)
    assert optimizer.last_directions[0].seed == optimizer.pool[optimizer.index]
    assert torch.equal(values(named), values(plain))


def test_what_is_not_finite_or_too_steep_is_dropped():
    named = parameters()
    optimizer = KSeed(named, lr=1e-4, pool=4, clip=1.0)
    optimizer.step(lambda: torch.tensor(2.0))
    for broken in (iter([math.nan, 1.0]), iter([3.0, math.inf]), iter([3.0, 1.5])):
        assert optimizer.step(lambda broken=broken: torch.tensor(next(broken))) == 2.0
        assert optimizer.index is None and optimizer.last_directions == []
    assert optimizer.dropped == 3
    assert torch.equal(values(named), values(parameters()))


def test_candidates_are_drawn_by_their_probabilities():
    named = parameters()
    optimizer = KSeed(named, lr=0.0, pool=4)
    optimizer.probabilities = torch.tensor([0.0, 0.25, 0.75, 0.0])
    drawn = (
        torch.tensor([optimizer._draw_candidate() for _ in range(2000)]).bincount(minlength=4)
        / 2000
    )
    assert drawn.tolist() == pytest.approx([0, 0.25, 0.75, 0], abs=0.04)


@pytest.mark.parametrize("options", [{"pool": 0}, {"clip": -1.0}])
def test_sizes_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        KSeed(parameters(), **options)
