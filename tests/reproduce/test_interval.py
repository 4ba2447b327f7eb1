"""Student's t and its intervals, against printed tables and sums by hand."""

from __future__ import annotations

import math
from random import Random

import pytest

from ftcli.reproduce.interval import (
    confidence,
    count_needed_seeds,
    interval,
    t_distribution,
    t_quantile,
)

#: Degrees of freedom -> quantiles at 0.975 and 0.95 (any table of Student's t).
TABLE = {
    1: (12.7062047, 6.3137515), 2: (4.3026527, 2.9199856), 3: (3.1824463, 2.3533634),
    4: (2.7764451, 2.1318468), 9: (2.2621572, 1.8331129), 30: (2.0422725, 1.6972609),
    99: (1.9842169, 1.6603912),
}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom):
    wide, narrow = TABLE[freedom]
    assert t_quantile(0.975, freedom) == pytest.approx(wide, abs=1e-7)
    assert t_quantile(0.95, freedom) == pytest.approx(narrow, abs=1e-7)


def test_the_distribution_is_symmetric_and_its_own_inverse():
    assert t_distribution(0.0, 5) == 0.5
    assert t_distribution(-1.3, 4) == pytest.approx(1 - t_distribution(1.3, 4))
    assert t_distribution(t_quantile(0.9, 7), 7) == pytest.approx(0.9)


def test_an_interval_by_hand():
    computed = interval([1.0, 2.0, 3.0])  # mean 2, deviation 1: 2 ± 4.3027 / sqrt(3)
    assert computed.mean == 2 and computed.deviation == 1 and computed.count == 3
    assert computed.high == pytest.approx(2 + 4.3026527 / math.sqrt(3), abs=1e-6)
    assert computed.low == pytest.approx(2 - 4.3026527 / math.sqrt(3), abs=1e-6)


def test_one_value_says_nothing_about_the_next():
    assert (interval([5.0]).low, interval([5.0]).high) == (-math.inf, math.inf)


def test_seeds_needed_is_the_first_number_whose_interval_is_short_enough():
    # deviation 1: half widths are 2.484 (3 seeds), 1.591 (4), 1.242 (5), 1.049 (6), 0.925 (7)
    assert count_needed_seeds(1.0, 1.6) == 4
    assert count_needed_seeds(1.0, 1.0) == 7
    assert count_needed_seeds(0.0, 1e-9) == 2
    assert count_needed_seeds(1.0, 0.0) is None and count_needed_seeds(1.0, 1e-3) is None


def test_the_error_of_all_looks_together_is_that_of_one():
    levels = [confidence(look) for look in range(1, 60)]
    assert levels[:3] == pytest.approx([0.96, 0.992, 0.9984])
    assert sum(1 - level for level in levels) == pytest.approx(0.05)


def test_seeds_added_until_it_decides_err_less_often_than_5_percent():
    """The true mean is 0. Looking with 3, 6, 9 and 12 values until 0 is excluded, in 4000 repetitions."""
    random = Random(0)

    def errs(level) -> float:
        wrong = 0
        for _ in range(4000):
            values: list[float] = []
            for look in range(1, 5):
                values += [random.gauss(0, 1) for _ in range(3)]
                computed = interval(values, level(look))
                if computed.low > 0 or computed.high < 0:
                    wrong += 1
                    break
        return wrong / 4000

    assert errs(confidence) < 0.05
    assert errs(lambda look: 0.95) > 0.09, "unchanged intervals err twice as often as they say"
