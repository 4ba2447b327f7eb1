"""Generation writes the model's answers beside the references, and scores them."""

from __future__ import annotations

import json

import pytest

from ftcli.core.errors import UserError
from ftcli.evaluation.generation import Generation, select_evenly
from ftcli.run.build import open_run


@pytest.fixture(scope="module")
def run(trained_run):
    found = open_run(trained_run)
    found.evaluated_step = 77  # samples of its own
    return found


def test_scores_and_samples_of_prompts_spread_over_the_split(run):
    scores = Generation(limit=3, max_new_tokens=8, metrics=["bleu", "slot_error"])(run)
    assert {"bleu", "slot_error", "slots_missed", "slots_invented"} == scores.keys()
    lines = (run.dir.path / "samples" / "77-generation.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    prompts = run.data.prompts("test", run.tokenizer)
    assert [s["references"] for s in samples] == [prompts[i].references for i in (0, 210, 420)]
    assert len(samples[0]["references"]) > 1 and samples[0]["prompt"].startswith("name[")


def test_beams_find_other_answers_than_greedy(run):
    def answers(**options):
        Generation(limit=3, max_new_tokens=12, name="beams", **options)(run)
        lines = (run.dir.path / "samples" / "77-beams.jsonl").read_text().splitlines()
        return [json.loads(line)["prediction"] for line in lines]

    assert answers() != answers(num_beams=3, length_penalty=0.6)


def test_only_the_cheap_evaluator_runs_on_the_way(run):
    assert {name: e.periodic for name, e in run.evaluators.items()} == {
        "loss": True,
        "generation": False,
    }


def test_an_unknown_metric_is_named_before_anything_is_loaded():
    with pytest.raises(UserError, match="blue.*Did you mean bleu"):
        Generation(metrics=["blue"])


def test_spread_takes_even_distances():
    assert select_evenly(range(10), 3) == [0, 3, 6]
    assert select_evenly(range(2), 3) == [0, 1] and select_evenly(range(2), None) == [0, 1]
