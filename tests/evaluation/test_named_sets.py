"""Evaluators of a job on named sets, with scores under the name of the set."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.evaluation.generation import Generation
from ftcli.evaluation.loss import Loss
from ftcli.evaluation.named_sets import add_named_sets, add_score
from ftcli.jobs.evaluate import evaluate_path

EVALUATORS = {"loss": Loss(), "generation": Generation()}


def data(**sets):
    return Data("a.jsonl", eval_sets=sets)


def test_a_set_takes_every_evaluator_or_those_that_it_lists():
    every = add_named_sets(
        EVALUATORS, data(code={"path": "c"}, talk={"path": "t", "eval": ["loss"]})
    )
    assert list(every) == ["loss", "generation", "code/loss", "code/generation", "talk/loss"]
    assert [e.split for e in every.values()] == ["validation", "test", "code", "code", "talk"]
    assert (
        every["code/generation"].name == "generation-code"
        and EVALUATORS["loss"].split == "validation"
    )


def test_an_evaluator_that_the_job_does_not_have_is_refused():
    with pytest.raises(UserError, match="no evaluator 'blue'") as caught:
        add_named_sets(EVALUATORS, data(code={"path": "c", "eval": ["blue"]}))
    assert caught.value.where == "data.eval_sets.code.eval"


def test_scores_of_sets_and_of_evaluators_do_not_cover_each_other():
    scores: dict[str, float] = {}
    for number, name in enumerate(("loss", "other", "code/loss", "code/other")):
        add_score(scores, name, "loss", number)
    assert scores == {
        "eval.loss": 0, "eval.other.loss": 1, "eval.code/loss": 2, "eval.code/other.loss": 3
    }  # fmt: skip


@pytest.mark.parametrize("name", ["train", "a/b", ".hidden"])
def test_a_set_cannot_be_called_as_a_split_or_a_path(name):
    with pytest.raises(UserError, match="cannot be the name of a set"):
        Data("a.jsonl", eval_sets={name: {"path": "b"}})


def test_data_without_named_sets_keep_their_evaluators():
    assert add_named_sets(EVALUATORS, SimpleNamespace()) == EVALUATORS


def test_a_run_is_judged_on_its_sets_in_training_and_afterwards(train_tiny, tmp_path):
    rows = [{"ask": f"question {n}", "say": f"answer {n}"} for n in range(6)]
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "{prompt: ask, completion: say}"
    run = train_tiny(
        "run.name=sets", "method.r=4", "eval=loss", "trainer.max_steps=2", "trainer.eval_every=1",
        f"+data.eval_sets={{other: {{path: {path}, columns: {columns}}}}}",
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "eval.loss" in line]
    assert [line["step"] for line in judged] == [0, 1, 2]
    assert all(line["eval.other/loss"] != line["eval.loss"] for line in judged)
    assert json.loads((run / "data.json").read_text())["splits"]["other"]["used"] == 6
    scores = evaluate_path(run, ["other/loss"])
    assert scores["other/loss"]["loss"] == pytest.approx(judged[-1]["eval.other/loss"])
    assert json.loads((run / "eval/other-loss.json").read_text())["split"] == "other"
