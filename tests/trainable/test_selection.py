"""Intervals, counts and random choices of policies."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.trainable.selection import Interval, Sampler, check_count, count_share


def due(every: Interval, step: int, epoch: int = 0, batch: int = 1) -> bool:
    return every.is_due(SimpleNamespace(step=step, epoch=epoch, batch=batch))


def test_every_chooses_at_step_0_and_at_multiples():
    assert [step for step in range(12) if due(Interval(steps=5), step)] == [0, 5, 10]
    assert [step for step in range(12) if due(Interval(), step)] == [0]


def test_every_chooses_where_an_epoch_begins():
    places = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 2, 0)]  # step, epoch, batch
    assert [s for s, e, b in places if due(Interval(epochs=1), s, e, b)] == [0, 2, 4]
    assert [s for s, e, b in places if due(Interval(epochs=2), s, e, b)] == [0, 4]


def test_an_interval_below_one_is_refused():
    with pytest.raises(UserError, match="not a valid interval"):
        Interval(steps=0)


def test_a_share_is_rounded_down_to_what_is_meant():
    assert [count_share(total, 0.25, "x") for total in (4, 7, 8, 32)] == [1, 1, 2, 8]
    assert count_share(100, 0.29, "x") == 29  # 0.29 * 100 is 28.999999999999996
    assert count_share(5, 1.0, "x") == 5


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, 0.1])
def test_a_share_of_nothing_or_too_much_is_refused(fraction):
    with pytest.raises(UserError, match="of 8 blocks") as refused:
        count_share(8, fraction, "trainable.train_fraction")
    suggested = float(refused.value.fix.partition("=")[2])
    assert count_share(8, suggested, "x") >= 1


def test_a_count_must_be_there():
    assert check_count(3, 3, "trainable.gamma") == 3
    for count in (0, 4):
        with pytest.raises(UserError, match=f"{count} of 3 blocks"):
            check_count(count, 3, "trainable.gamma")


def test_uniform_draws_are_distinct_and_fair():
    """Chi-square over all 28 pairs of 8, 27 degrees of freedom; 99.9 % lie below 55.5."""
    draws, rounds = Sampler(0), 2800
    counts = dict.fromkeys(itertools.combinations(range(8), 2), 0)
    for _ in range(rounds):
        counts[tuple(draws.draw_uniform(8, 2).tolist())] += 1
    expected = rounds / len(counts)
    assert sum((c - expected) ** 2 / expected for c in counts.values()) < 55.5


def test_weighted_draws_follow_the_weights_one_after_the_other():
    """P({i, j}) = w_i w_j / (1 - w_i) + w_j w_i / (1 - w_j), weights summing to 1."""
    weights, draws, rounds = torch.tensor([0.5, 0.3, 0.2]), Sampler(1), 4000
    counts = {(0, 1): 0, (0, 2): 0, (1, 2): 0}
    for _ in range(rounds):
        counts[tuple(draws.draw_weighted(weights, 2).tolist())] += 1
    w = weights.tolist()
    for (i, j), count in counts.items():
        expected = w[i] * w[j] / (1 - w[i]) + w[i] * w[j] / (1 - w[j])
        assert count / rounds == pytest.approx(expected, abs=4 * 0.5 / rounds**0.5)


def test_draws_go_on_from_their_state_and_leave_other_generators_alone():
    torch.manual_seed(5)
    outer = torch.get_rng_state()
    draws = Sampler(2)
    draws.draw_uniform(10, 3)
    saved = {k: v.clone() for k, v in draws.state_dict().items()}
    ahead = [draws.draw_uniform(10, 3).tolist(), draws.draw_weighted(torch.ones(4), 2).tolist()]
    again = Sampler(99)
    again.load_state_dict(saved)
    assert [
        again.draw_uniform(10, 3).tolist(),
        again.draw_weighted(torch.ones(4), 2).tolist(),
    ] == ahead
    assert torch.equal(torch.get_rng_state(), outer)
