"""Steps, epochs and tokens of a run, against the loader and the trainer themselves."""

import json

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.objectives.causal_lm import model_inputs
from ftcli.planning import schedule as module
from ftcli.planning.schedule import schedule
from ftcli.run.build import build_run
from tests.planning.drafts import draft

SMALL = ("data.limit=200", "trainer.batch_size=8", "trainer.max_steps=null", "trainer.epochs=1")


@pytest.fixture
def small(tmp_path):
    return lambda *words: draft(*SMALL, f"data.cache_dir={tmp_path}", *words)


@pytest.mark.parametrize("packing", ["flat", "bins", "none"])
def test_steps_and_tokens_are_those_of_the_run(small, packing):
    job = small(f"data.packing={packing}", "trainer.epochs=2.5",
                "trainer.gradient_accumulation_steps=3")  # fmt: skip
    found = schedule(job)
    run = build_run(job.composed.config)
    loader = run.loader()
    batches = [loader.batch(rows) for rows in loader.batches(0)]
    assert found.batches == len(loader)
    assert found.steps == run.trainer.steps(run)
    widest = max(model_inputs(b, torch.device("cpu"))["input_ids"].numel() for b in batches)
    assert found.fullest == widest
    assert found.supervised == sum(b["count"] for b in batches)
    padding = sum(int((b["attention_mask"] == 0).sum()) for b in batches if "attention_mask" in b)
    assert found.tokens == sum(b["input_ids"].numel() for b in batches) - padding
    assert found.total_tokens == round(2.5 * found.tokens)


def test_epochs_follow_from_steps(small):
    found = schedule(small("trainer.max_steps=10"))
    assert found.steps == 10 and found.epochs == round(10 / found.batches, 3)


def test_without_the_tokenizer_rows_and_steps_are_known(small, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = schedule(small("model=llama3_8b"))
    assert found.rows and found.steps and found.tokens is None
    assert "token lengths are unknown" in found.notes[0]
    bins = schedule(small("model=llama3_8b", "data.packing=bins"))
    assert bins.rows == found.rows and bins.steps is None


def test_without_the_data_only_what_the_job_says_is_known(small, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    found = schedule(small("data=prompt", "data.path=nobody/nothing", "trainer.max_steps=7"))
    assert found.steps == 7 and found.rows is None and "data are unknown" in found.notes[0]


def test_a_large_source_is_judged_by_its_beginning(small, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 50)
    found = schedule(small())
    assert found.steps is None and found.rows is None and found.fullest
    assert "first 50" in found.notes[0]


def test_rows_that_are_here_and_wrong_are_no_guess(small, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "a", "answer": "b"}) + "\n{broken\n")
    with pytest.raises(UserError) as caught:
        schedule(draft("data=prompt", f"data.path={file}", "data.validation=null",
                       "data.columns={prompt: question, completion: answer}"))  # fmt: skip
    assert caught.value.where == f"{file}:2"
