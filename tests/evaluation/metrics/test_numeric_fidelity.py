"""Numbers of a text against those of its reference."""

from __future__ import annotations

import pytest

from ftcli.evaluation.metrics.numeric_fidelity import numeric_fidelity

CASES = [
    ("came on 03-12, sodium 148, 1.4.", 100),
    ("1.4 and 148 on 03-12", 100),
    ("came on 03-12, sodium 146, 1.4", 200 / 3),
    ("sodium 148", 50),
    ("03-12 148 1.4 and 1.4", 100 * 6 / 7),
    ("nothing", 0),
]


@pytest.mark.parametrize(("text", "score"), CASES)
def test_it_is_the_f1_of_numbers(text, score):
    found = numeric_fidelity([text], [["On 03-12 sodium was 148 and creatinine 1.4."]], [{}])
    assert found["numeric_fidelity"] == pytest.approx(score)
    assert found["numbers_exact"] == (100 if score == 100 else 0)


def test_the_best_reference_counts_and_those_without_numbers_do_not():
    assert numeric_fidelity(["12"], [["none", "13", "12"]], [{}])["numeric_fidelity"] == 100
    assert numeric_fidelity(["12", "7"], [["none"], ["7"]], [{}, {}])["numbers_exact"] == 100
    assert numeric_fidelity(["12"], [["none"]], [{}]) == {}
