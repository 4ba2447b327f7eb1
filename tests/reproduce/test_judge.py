"""Verdicts on figures whose answer is known."""

from __future__ import annotations

import pytest

from ftcli.config.recipe import Claim
from ftcli.reproduce.judge import Judge


def claim(**keys) -> Claim:
    return Claim(say="it is so", measure="eval.loss", kind="statistical", **keys)


def judge(claim, values, exact=False, least=3, look=1):
    return Judge(claim, exact, least, look).verdict(values)


def verdict(values, exact=False, least=3, look=1, **keys) -> str:
    return judge(claim(**keys), values, exact, least, look).verdict


OWN = {"mine": [1.00, 1.02, 1.01]}  # mean 1.01, deviation 0.01, 96 % interval ± 0.0280


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ({"at_most": 1.04}, "holds"), ({"at_most": 0.98}, "fails"),
        ({"at_most": 1.02}, "inconclusive"), ({"at_least": 0.98}, "holds"),
        ({"less_than": 1.04}, "holds"), ({"greater_than": 1.04}, "fails"),
        ({"equals": 1.0, "tolerance": 0.05}, "holds"),
        ({"equals": 1.0, "tolerance": 0.001}, "inconclusive"),
        ({"equals": 2.0, "tolerance": 0.1}, "fails"),
    ],
)  # fmt: skip
def test_the_whole_interval_decides(relation, expected):
    assert verdict(OWN, **relation) == expected


def test_a_difference_is_paired_by_seed():
    """Seeds differ by far more than the methods do; the paired difference is sure."""
    values = {"mine": [1.0, 2.0, 3.0], "base": [1.101, 2.100, 3.099]}
    judged = judge(claim(of="base", less_than=0.0), values, False)
    assert judged.verdict == "holds" and judged.mean == pytest.approx(-0.1)
    assert judged.values == pytest.approx([-0.101, -0.1, -0.099])
    shuffled = values | {"base": [3.099, 1.101, 2.100]}
    assert verdict(shuffled, of="base", less_than=0.0) == "inconclusive"


def test_within_is_about_the_difference_and_about_one_for_a_ratio():
    values = {"mine": [2.01, 2.02, 2.03], "base": [2.0, 2.0, 2.0]}
    assert verdict(values, of="base", within=0.05) == "holds"
    assert verdict(values, of="base", within=0.001) == "inconclusive"
    assert verdict(values, of="base", compare="ratio", within=0.05) == "holds"
    apart = {"mine": [3.01, 3.02, 3.03], "base": [2.0, 2.0, 2.0]}
    assert verdict(apart, of="base", within=0.05) == "fails"
    assert verdict(apart, of="base", compare="ratio", at_most=1.4) == "fails"


def test_one_seed_never_holds_and_never_fails():
    for relation in ({"at_most": 9.0}, {"at_most": -9.0}):
        verdict = judge(claim(**relation), {"mine": [1.0]}, least=1)
        assert verdict.verdict == "inconclusive" and "takes 2" in verdict.why


def test_fewer_seeds_than_the_claim_asks_for_are_too_few():
    assert verdict({"mine": [1.0, 1.0]}, at_most=9.0, least=3) == "inconclusive"
    assert verdict({"mine": [1.0, 1.0]}, at_most=9.0, least=2) == "holds"


def test_the_seeds_that_would_decide_are_named():
    verdict = judge(claim(at_most=1.02), OWN)  # 0.01 away, deviation 0.01, at 99.2 %: 11 seeds
    assert verdict.why == "96 % interval of 3 seeds does not decide; about 11 would"
    assert "more than 1000" in judge(claim(at_most=1.01), OWN).why


def test_a_further_look_has_a_wider_interval_and_says_so():
    first, second = (judge(claim(at_most=1.04), OWN, look=look) for look in (1, 2))
    assert first.verdict == "holds" and first.why == "96 % interval of 3 seeds"
    assert second.verdict == "inconclusive" and second.why.startswith(
        "99.2 % interval, look 2, of 3"
    )
    assert second.high - second.low > 2 * (first.high - first.low)


def test_exact_figures_need_no_interval():
    assert verdict({"mine": [4.1273]}, exact=True, equals=4.127, tolerance=0.001) == "holds"
    assert verdict({"mine": [4.1273]}, exact=True, equals=4.127, tolerance=0.0001) == "fails"
    assert verdict({"mine": [5.0, 5.0]}, exact=True, less_than=5.0) == "fails"
    assert verdict({"mine": [10.0], "base": [100.0]}, exact=True, of="base", compare="ratio",
                   at_most=0.1) == "holds"  # fmt: skip


def test_an_order_of_variants_holds_pair_by_pair():
    values = {"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, 1.9], "c": [3.0, 3.1, 3.0]}
    assert verdict(values, ranks=["a", "b", "c"]) == "holds"
    wrong = judge(claim(ranks=["a", "c", "b"]), values, False)
    assert wrong.verdict == "fails" and "c < b" in wrong.why and "a < c" not in wrong.why
    near = values | {"b": [1.0, 1.2, 0.9]}
    assert verdict(near, ranks=["a", "b", "c"]) == "inconclusive"


def test_a_ratio_to_nothing_is_not_measurable():
    values = {"mine": [1.0, 1.0, 1.0], "base": [0.0, 1.0, 1.0]}
    assert verdict(values, of="base", compare="ratio", at_most=1.0) == "not measurable here"
