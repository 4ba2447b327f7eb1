"""Metrics against hand-made cases whose scores are known."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ftcli.core.errors import UserError
from ftcli.evaluation import metrics
from ftcli.evaluation.metrics.final_number import read

TEXTS = ["the cat sat on the mat", "a dog runs in the park today"]
ANSWERS = [["a cat was on a mat", "the cat sat on the mat"], ["a dog runs in the park today"]]


@pytest.mark.parametrize("name", ["bleu", "chrf", "rougeL", "exact_match"])
def test_a_perfect_answer_to_any_of_its_references_scores_100(name):
    scores = metrics.find_metric(name)(TEXTS, ANSWERS, [{}, {}])
    assert scores[name] == pytest.approx(100)


@pytest.mark.parametrize("name", ["bleu", "chrf", "rougeL", "exact_match"])
def test_a_worse_answer_scores_less_and_no_reference_no_score(name):
    metric = metrics.find_metric(name)
    assert metric(["on the mat sat a bird", TEXTS[1]], ANSWERS, [{}, {}])[name] < 90
    assert metric(TEXTS, [[], []], [{}, {}]) == {}


def test_bleu_with_uneven_references_is_sacrebleus():
    import sacrebleu

    got = metrics.find_metric("bleu")(["the cat sat on a mat", TEXTS[1]], ANSWERS, [{}, {}])["bleu"]
    streams = [[ANSWERS[0][0], ANSWERS[1][0]], [ANSWERS[0][1], ANSWERS[1][0]]]
    assert got == pytest.approx(
        sacrebleu.corpus_bleu(["the cat sat on a mat", TEXTS[1]], streams).score
    )


def test_rouge_l_is_the_f_score_of_the_longest_common_subsequence():
    # "the cat mat" of 3 words shares all with 6 words: precision 1, recall 1/2
    got = metrics.find_metric("rougeL")(["the cat mat"], [["the cat sat on the mat"]], [{}])
    assert got["rougeL"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 1,234", "1234"),
        ("#### 5\nand then 9 more", "5"),
        ("#### $-2.50", "-2.5"),
        ("She has 12 apples and 3.0 pears.", "3"),
        ("no figure", None),
    ],
)
def test_the_final_number_is_behind_the_mark_or_the_last_one(text, number):
    assert read(text) == (None if number is None else Decimal(number))


def test_final_number_compares_values_not_strings():
    texts = ["it is 7.00", "it is 8", "none"]
    got = metrics.find_metric("final_number")(texts, [["#### 7"], ["#### 9"], ["#### 1"]], [{}] * 3)
    assert got["final_number"] == pytest.approx(100 / 3)
    assert metrics.find_metric("final_number")(["7"], [["no number"]], [{}]) == {}


def test_an_unknown_metric_names_the_nearest_and_all():
    with pytest.raises(UserError, match="Did you mean rougeL.*Available: bleu, chrf") as caught:
        metrics.find_metric("rougel")
    assert "slot_error" in str(caught.value)
    assert metrics.list_metrics() == sorted(metrics.list_metrics())
