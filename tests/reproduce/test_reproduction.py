"""Runs are made once, claims judged from their files, and the exit status says how it went."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError


def said(reproduction) -> list[str]:
    return [v.verdict for v in reproduction.verdicts]


def test_claims_hold_over_the_seeds_they_ask_for(reproduce, pretended):
    reproduction = reproduce()
    assert said(reproduction) == ["holds", "holds", "holds"] and reproduction.status == 0
    assert pretended.calls == [(k, s) for s in (0, 1, 2) for k in ("nf4", "none", "fp4")]


def test_a_tolerance_the_data_cannot_meet_fails_with_status_1(reproduce, pretended):
    reproduction = reproduce(("within: 0.1", "within: 0.001"))
    assert said(reproduction)[1] == "fails" and reproduction.status == 1
    assert reproduction.verdicts[1].mean == pytest.approx(0.02 + 0.002 / 3)


def test_too_few_seeds_are_inconclusive_and_no_failure(reproduce, pretended):
    reproduction = reproduce(seeds=1)
    assert (
        said(reproduction) == ["holds", "inconclusive", "inconclusive"] and reproduction.status == 0
    )
    assert "1 seed; it takes 3" in reproduction.verdicts[1].why


def test_an_interrupted_reproduction_repeats_nothing(reproduce, pretended):
    pretended.dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        reproduce()
    pretended.dies_after = None
    assert said(reproduce()) == ["holds", "holds", "holds"]
    assert len(pretended.calls) == len(set(pretended.calls)) == 9
    reproduce()
    assert len(pretended.calls) == 9


def test_a_further_look_adds_as_many_seeds_and_another_job_all(reproduce, pretended):
    reproduce()
    reproduce(look=2)
    assert pretended.calls[9:] == [(k, s) for s in (3, 4, 5) for k in ("nf4", "none", "fp4")]
    reproduce(overrides=["trainer.max_steps=4"])
    assert len(pretended.calls) == 27


def test_words_of_a_claim_change_no_run(reproduce, pretended):
    reproduce()
    reproduce(("better than FP4", "beats FP4"), ("at_most: 4.5", "at_most: 4.0"))
    assert len(pretended.calls) == 9


def test_only_one_claim_makes_only_its_runs(reproduce, pretended):
    assert said(reproduce(only="1")) == ["holds"] and pretended.calls == [("nf4", 0)]
    assert len(reproduce(only="fp4").claims) == 1
    assert {kind for kind, _ in pretended.calls} == {"nf4", "fp4"}
    with pytest.raises(UserError, match="is called x") as caught:
        reproduce(only="x")
    assert "3 better than FP4" in caught.value.fix


def test_a_figure_no_run_has_is_not_measurable_and_what_is_needed_is_said(reproduce, pretended):
    reproduction = reproduce(
        ("measure: bits_per_parameter", "measure: tok_s"),
        (
            "measure: eval.loss, kind: statistical, central: true, of: lora16",
            "measure: eval.mmlu, needs: a GPU, kind: statistical, central: true, of: lora16",
        ),
    )
    assert said(reproduction) == ["not measurable here", "not measurable here", "holds"]
    assert (
        "they have" in reproduction.verdicts[0].why
        and reproduction.verdicts[1].why == "needs a GPU"
    )
    assert reproduction.status == 0


def test_variants_that_cannot_be_composed_are_named_before_any_run(reproduce, pretended):
    with pytest.raises(UserError, match="quantization"):
        reproduce(("model.quantization=fp4", "model.quantization=fp5"))
    assert pretended.calls == []


def test_another_scale_is_planned_and_not_trained(reproduce, pretended):
    reproduction = reproduce(
        ("claims:", "scales: {big: [method.r=8]}\nclaims:\n"
         "  - {say: twice, kind: exact, measure: plan.trainable_parameters, equals: 299008, scale: big}\n"
         "  - {say: fewer, kind: exact, measure: plan.trainable_parameters, equals: 37376, scale: big,"
         " given: [method.r=1]}\n"
         "  - {say: lower, kind: statistical, measure: eval.loss, at_most: 1, scale: big}"),
        scale="big",
    )  # fmt: skip
    assert said(reproduction) == ["holds", "holds", "not measurable here"]
    assert "--run" in reproduction.verdicts[2].why and pretended.calls == []
    with pytest.raises(UserError, match="no scale huge"):
        reproduce(scale="huge")
