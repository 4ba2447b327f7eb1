"""Factors of the learning rate by patterns of names."""

from __future__ import annotations

import pytest

from ftcli.callbacks.learning_rates import find_factors
from ftcli.core.errors import UserError

NAMES = [
    "model.layers.0.q_proj.lora_A",
    "model.layers.1.q_proj.lora_A",
    "model.layers.1.v_proj.lora_A",
]


def test_the_first_pattern_that_matches_counts():
    factors = find_factors(NAMES, {"*.1.q_proj.*": 0.1, "*.q_proj.*": 2.0})
    assert factors == {NAMES[0]: 2.0, NAMES[1]: 0.1}


def test_a_pattern_that_matches_nothing_is_refused_with_a_name_that_exists():
    with pytest.raises(UserError, match=r"'\*k_proj\*' matches no trained parameter") as caught:
        find_factors(NAMES, {"*.q_proj.*": 2.0, "*k_proj*": 0.5})
    assert NAMES[0] in str(caught.value)
