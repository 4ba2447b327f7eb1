"""Stored verdicts: found by identity, with what made them and every look at their figure."""

from __future__ import annotations

import json

import pytest

from ftcli.core import code
from ftcli.core.errors import UserError
from ftcli.reproduce import origin, papers, verdicts

LORA, FP4 = "small | eval.loss | difference to lora16", "small | eval.loss | difference to fp4"

REQUIRE_COMMIT = origin.require_commit


def kept(reproduction) -> dict:
    return json.loads(verdicts.store_verdicts(reproduction).read_text())


@pytest.fixture
def refusing():
    """`require_commit` as it is; taken before `committed` replaces it."""
    return REQUIRE_COMMIT


@pytest.fixture(autouse=True)
def _(pretended, committed):
    """Runs are made up, and of a commit."""


def test_verdicts_are_kept_and_those_not_judged_again_stay(reproduce):
    stored = kept(reproduce())
    assert [record["verdict"] for record in stored["verdicts"].values()] == ["holds"] * 3
    assert stored["variants"]["small"]["figures"]["lora16"]["rank"] == 1
    again = reproduce(("within: 0.1", "within: 0.001"), only="16-bit")
    stored = kept(again)["verdicts"]
    assert stored[f"{LORA} | within 0.001"]["verdict"] == "fails"
    assert stored[f"{FP4} | less_than 0"]["verdict"] == "holds"


def test_a_verdict_says_what_made_it(reproduce, committed):
    record = kept(reproduce())["verdicts"][f"{FP4} | less_than 0"]
    assert record["commit"] == committed and record["seeds"] == [0, 1, 2]
    assert {"ftcli.jobs.trial", "ftcli.methods.peft", "configs/eval/loss.yaml"} <= set(
        record["roots"]
    )
    assert record["code"] == code.digest(record["roots"]) and "torch" in record["libraries"]


def test_claims_worded_alike_have_verdicts_of_their_own(reproduce):
    reproduction = reproduce(("say: better than FP4", "say: as good as 16-bit LoRA"))
    stored = kept(reproduction)
    first, second = (
        verdicts.find_verdict(claim, stored) for claim in reproduction.recipe.claims[1:]
    )
    assert first["mean"] == pytest.approx(0.0207, abs=1e-4)
    assert second["mean"] == pytest.approx(-0.1993, abs=1e-4)


def test_other_words_keep_the_verdict_and_another_bound_has_none(reproduce):
    kept(reproduce())
    reproduction = reproduce(
        ("better than FP4", "beats FP4"), ("within: 0.1", "within: 0.2"), only="1"
    )
    stored = verdicts.load_verdicts(reproduction.recipe)
    _, bound, words = reproduction.recipe.claims
    assert verdicts.find_verdict(words, stored)["verdict"] == "holds"
    assert verdicts.find_verdict(bound, stored) is None
    assert list(verdicts.find_withdrawn(reproduction.recipe, stored)) == [f"{LORA} | within 0.1"]
    page = "\n\n".join(papers._render_recipe(reproduction.recipe))
    assert f"no longer claimed: as good as 16-bit LoRA ({LORA} | within 0.1): holds." in page


def test_every_look_is_kept_and_widens_the_interval(reproduce):
    first = kept(reproduce())["verdicts"][f"{FP4} | less_than 0"]
    same = kept(reproduce())["verdicts"][f"{FP4} | less_than 0"]
    assert [look["look"] for look in same["looks"]] == [1, 1], "the same seeds are no further look"
    second = kept(reproduce(look=2))["verdicts"][f"{FP4} | less_than 0"]
    assert [look["seeds"] for look in second["looks"]][-1] == [0, 1, 2, 3, 4, 5]
    assert second["look"] == 2 and "99.2 % interval, look 2, of 6 seeds" in second["why"]
    assert first["why"] == "96 % interval of 3 seeds"


def test_another_bound_or_other_settings_are_further_looks_at_the_figure(reproduce):
    kept(reproduce())
    moved = reproduce(("within: 0.1", "within: 0.05"))
    assert [moved.count_look(claim) for claim in moved.claims[1:]] == [2, 1]
    kept(moved)
    changed = reproduce(("max_steps: 3", "max_steps: 4"))
    assert [changed.count_look(claim) for claim in changed.claims[1:]] == [3, 2]


def test_changed_code_and_settings_make_verdicts_stale(reproduce, monkeypatch):
    reproduction = reproduce()
    kept(reproduction)
    assert list(papers.find_stale(reproduction.recipe)) == []
    changed = reproduce(("max_steps: 3", "max_steps: 4"), only="1")
    assert {why for _, why in papers.find_stale(changed.recipe)} == {
        "the recipe's settings have changed"
    }
    reproduce(("max_steps: 4", "max_steps: 3"), only="1")
    monkeypatch.setattr(code, "digest", lambda roots: "0" * 16)
    assert [why for _, why in papers.find_stale(reproduction.recipe)] == [
        "the code has changed"
    ] * 3
    assert "STALE, commit c0ffeec0f" in "\n\n".join(papers._render_recipe(reproduction.recipe))


def test_what_no_commit_can_have_made_is_not_stored(reproduce, monkeypatch, refusing):
    reproduction = reproduce(only="1")
    monkeypatch.setattr(origin, "run_git", lambda *words: b" M ftcli/papers/qst/method.py\n")
    with pytest.raises(UserError, match=r"differ from the commit: ftcli/papers/qst/method\.py"):
        refusing(reproduction.recipe)

    def absent(*words: str) -> bytes:
        raise origin.HistoryUnavailable("there is no git repository")

    monkeypatch.setattr(origin, "run_git", absent)
    with pytest.raises(UserError, match="no git repository"):
        refusing(reproduction.recipe)
