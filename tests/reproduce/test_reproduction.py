"""Runs are made once, claims judged from their files, and the exit status says how it went."""

from __future__ import annotations

import json

import pytest

from ftcli.errors import UserError
from ftcli.reproduce import verdicts


def said(made) -> list[str]:
    return [v.verdict for v in made.verdicts]


def test_claims_hold_over_the_seeds_they_ask_for(reproduce, pretended):
    made = reproduce()
    assert said(made) == ["holds", "holds", "holds"] and made.status == 0
    assert pretended.calls == [(k, s) for s in (0, 1) for k in ("nf4", "none", "fp4")]


def test_a_tolerance_the_data_cannot_meet_fails_with_status_1(reproduce, pretended):
    made = reproduce(("within: 0.1", "within: 0.001"))
    assert said(made)[1] == "fails" and made.status == 1
    assert made.verdicts[1].mean == pytest.approx(0.021)


def test_too_few_seeds_are_inconclusive_and_no_failure(reproduce, pretended):
    made = reproduce(seeds=1)
    assert said(made) == ["holds", "inconclusive", "inconclusive"] and made.status == 0
    assert "1 seed; it takes 2" in made.verdicts[1].why


def test_an_interrupted_reproduction_repeats_nothing(reproduce, pretended):
    pretended.dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        reproduce()
    pretended.dies_after = None
    assert said(reproduce()) == ["holds", "holds", "holds"]
    assert len(pretended.calls) == len(set(pretended.calls)) == 6
    reproduce()
    assert len(pretended.calls) == 6


def test_a_third_seed_adds_three_runs_and_another_job_all(reproduce, pretended):
    reproduce()
    reproduce(seeds=3)
    assert pretended.calls[6:] == [("nf4", 2), ("none", 2), ("fp4", 2)]
    reproduce(overrides=["trainer.max_steps=4"])
    assert len(pretended.calls) == 15


def test_words_of_a_claim_change_no_run(reproduce, pretended):
    reproduce()
    reproduce(("better than FP4", "beats FP4"), ("at_most: 4.5", "at_most: 4.0"))
    assert len(pretended.calls) == 6


def test_only_one_claim_makes_only_its_runs(reproduce, pretended):
    assert said(reproduce(only="1")) == ["holds"] and pretended.calls == [("nf4", 0)]
    assert len(reproduce(only="fp4").claims) == 1
    assert {kind for kind, _ in pretended.calls} == {"nf4", "fp4"}
    with pytest.raises(UserError, match="is called x") as caught:
        reproduce(only="x")
    assert "3 better than FP4" in caught.value.fix


def test_a_figure_no_run_has_is_not_measurable_and_what_is_needed_is_said(reproduce, pretended):
    made = reproduce(
        ("measure: bits_per_parameter", "measure: tok_s"),
        ("measure: eval.loss, of: lora16", "measure: eval.mmlu, needs: a GPU, of: lora16"),
    )
    assert said(made) == ["not measurable here", "not measurable here", "holds"]
    assert "they have" in made.verdicts[0].why and made.verdicts[1].why == "needs a GPU"
    assert made.status == 0


def test_variants_that_cannot_be_composed_are_named_before_any_run(reproduce, pretended):
    with pytest.raises(UserError, match="quantization"):
        reproduce(("model.quantization=fp4", "model.quantization=fp5"))
    assert pretended.calls == []


def test_verdicts_are_kept_and_those_not_judged_again_stay(reproduce, pretended):
    made = reproduce()
    kept = json.loads(verdicts.store(made).read_text())
    assert [c["verdict"] for c in kept["small"]["claims"]] == ["holds"] * 3
    assert kept["small"]["seeds"] == 2 and kept["small"]["figures"]["lora16"]["rank"] == 1
    again = reproduce(("within: 0.1", "within: 0.001"), only="16-bit")
    kept = json.loads(verdicts.store(again).read_text())
    assert [c["verdict"] for c in kept["small"]["claims"]] == ["holds", "fails", "holds"]


def test_another_scale_is_planned_and_not_trained(reproduce, pretended):
    made = reproduce(
        ("claims:", "scales: {big: [method.r=8]}\nclaims:\n"
         "  - {say: twice, measure: plan.trainable_parameters, equals: 299008, scale: big}\n"
         "  - {say: fewer, measure: plan.trainable_parameters, equals: 37376, scale: big,"
         " given: [method.r=1]}\n"
         "  - {say: lower, measure: eval.loss, at_most: 1, scale: big}"),
        scale="big",
    )  # fmt: skip
    assert said(made) == ["holds", "holds", "not measurable here"]
    assert "--run" in made.verdicts[2].why and pretended.calls == []
    with pytest.raises(UserError, match="no scale huge"):
        reproduce(scale="huge")
