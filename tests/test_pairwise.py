"""The generator of combinations: every pair, few rows, the same ones each time."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.pairwise import covering, select_rows

SHAPES = [(45, 14, 7, 6), (3, 3, 3, 3), (2, 2, 2), (5, 1, 4), (7, 7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_two_options_meet(shape):
    groups = {f"g{i}": [f"{i}.{j}" for j in range(size)] for i, size in enumerate(shape)}
    rows = covering(groups)
    for one, other in combinations(groups, 2):
        met = {(row[one], row[other]) for row in rows}
        assert met == set(product(groups[one], groups[other]))
    assert all(row.keys() == groups.keys() for row in rows)
    largest = sorted(shape)[-2:]
    assert largest[0] * largest[1] <= len(rows) <= 1.7 * largest[0] * largest[1]
    assert rows == covering(groups)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_selected_rows_hold_every_option_and_are_few(shape):
    groups = {f"g{i}": [f"{i}.{j}" for j in range(size)] for i, size in enumerate(shape)}
    rows = covering(groups)
    chosen = [rows[i] for i in select_rows(rows)]
    assert {item for row in chosen for item in row.items()} == {
        (name, option) for name, options in groups.items() for option in options
    }
    assert max(shape) <= len(chosen) <= 1.5 * max(shape)
