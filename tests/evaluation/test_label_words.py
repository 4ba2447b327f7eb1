"""Accuracy by label words equals that of the plain model, row by row."""

from __future__ import annotations

import pytest
import torch

from ftcli.config import compose, validate_and_convert
from ftcli.evaluation.label_words import LabelWords
from ftcli.jobs.evaluate import evaluate_path
from ftcli.run.build import build_run, open_run

JOB = (
    "method=lora", "model.quantization=none", "data=mr", "data.limit=60", "data.validation=0.2",
    "data.test=null", "eval=label_words", "eval.label_words.split=validation",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    places = [f"data.cache_dir={tmp_path_factory.mktemp('tokens')}"]
    composed = compose(
        "qlora_mini", [*JOB, *places, "model.dtype=float32", "trainer.precision=fp32"]
    )
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    return run


def by_hand(run):
    words = [" great", " terrible"]
    ids = [run.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in words]
    hits, losses = [], []
    run.model.eval()
    for example in run.data.examples("validation"):
        prompt = torch.tensor([run.data.prompt_ids(example, run.tokenizer)])
        with torch.no_grad():
            logits = run.model(input_ids=prompt).logits[0, -1, ids].float()
        right = words.index(example["completion"])
        hits.append(logits.argmax().item() == right)
        losses.append(-logits.log_softmax(0)[right].item())
    return 100 * sum(hits) / len(hits), sum(losses) / len(losses)


@pytest.mark.parametrize("batch_size", [3, 64])
def test_scores_are_those_of_the_rows_one_by_one(run, batch_size):
    accuracy, loss = by_hand(run)
    scores = LabelWords(split="validation", batch_size=batch_size)(run)
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert scores["loss"] == pytest.approx(loss, abs=1e-4)


def test_other_words_ask_another_question(run):
    swapped = LabelWords(split="validation", words=[" terrible", " great"])(run)
    assert swapped == pytest.approx(LabelWords(split="validation")(run), abs=1e-6)


def test_a_limit_judges_the_first_rows(run):
    scores = LabelWords(split="validation", batch_size=2, limit=2)(run)
    assert scores["accuracy"] in (0.0, 50.0, 100.0)


def test_a_finished_run_is_judged_again_to_the_same_scores(train_tiny):
    folder = train_tiny(*JOB, "objective=label_words")
    again = evaluate_path(folder)["label_words"]
    run = open_run(folder)
    metrics = run.dir.metrics()[-1]
    assert again["accuracy"] == pytest.approx(metrics["eval.accuracy"])
    assert again["loss"] == pytest.approx(metrics["eval.loss"], abs=1e-5)
