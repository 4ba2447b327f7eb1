"""Every row goes to one client, as skewed as it was asked for."""

import numpy as np
import pytest

from ftcli.core.errors import UserError
from ftcli.pipelines.federated.partition import split_rows

LABELS = ["good"] * 300 + ["bad"] * 300


def share_of_good(parts):
    return np.array([np.mean([LABELS[row] == "good" for row in part]) for part in parts])


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "category"])
def test_every_row_belongs_to_one_client_and_the_draw_is_repeatable(kind):
    parts = split_rows(LABELS, 2, kind, 0.5, 3)
    assert sorted(row for part in parts for row in part) == list(range(600))
    assert parts == split_rows(LABELS, 2, kind, 0.5, 3)


def test_alpha_says_how_skewed():
    spread = [
        np.mean(
            [share_of_good(split_rows(LABELS, 6, "dirichlet", a, seed)).std() for seed in range(20)]
        )
        for a in (0.5, 5.0, 500.0)
    ]
    assert spread[0] > 2 * spread[1] > 4 * spread[2]
    assert share_of_good(split_rows(LABELS, 6, "iid", 0.5, 0)).std() < 0.06
    assert sorted(share_of_good(split_rows(LABELS, 2, "category", 0.5, 0))) == [0, 1]


@pytest.mark.parametrize(("kind", "clients"), [("iid", 601), ("category", 3), ("dirichlet", 300)])
def test_too_many_clients_are_refused(kind, clients):
    with pytest.raises(UserError, match="clients"):
        split_rows(LABELS, clients, kind, 0.1, 0)
