"""Steps, epochs and tokens against the loader and the trainer; the speed of earlier runs."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.objectives.causal_lm import model_inputs
from ftcli.planning import schedule as module
from ftcli.planning.plan import Plan
from ftcli.planning.schedule import compute_schedule, find_speed
from ftcli.run.build import build_run
from ftcli.run.record import write_record
from tests.planning.jobs import build_job

SMALL = ("data.limit=200", "trainer.batch_size=8", "trainer.max_steps=null", "trainer.epochs=1")
WORDS = ("method.r=4", "trainer.batch_size=8", "data.limit=64", "data.validation=0.1")


@pytest.fixture
def small(tmp_path):
    return lambda *words: build_job(*SMALL, f"data.cache_dir={tmp_path}", *words)


@pytest.mark.parametrize("packing", ["flat", "bins", "none"])
def test_steps_and_tokens_are_those_of_the_run(small, packing):
    job = small(f"data.packing={packing}", "trainer.epochs=2.5",
                "trainer.gradient_accumulation_steps=3")  # fmt: skip
    planned = compute_schedule(job)
    run = build_run(job.composed.config)
    loader = run.build_loader()
    batches = [loader.batch(rows) for rows in loader.list_batch_indices(0)]
    assert planned.batches == len(loader)
    assert planned.steps == run.trainer.count_steps(run)
    widest = max(model_inputs(b, torch.device("cpu"))["input_ids"].numel() for b in batches)
    assert planned.fullest == widest
    assert planned.supervised == sum(b["num_supervised"] for b in batches)
    padding = sum(int((b["attention_mask"] == 0).sum()) for b in batches if "attention_mask" in b)
    assert planned.tokens == sum(b["input_ids"].numel() for b in batches) - padding
    assert planned.total_tokens == round(2.5 * planned.tokens)


def test_epochs_follow_from_steps(small):
    planned = compute_schedule(small("trainer.max_steps=10"))
    assert planned.steps == 10 and planned.epochs == round(10 / planned.batches, 3)


def test_without_the_tokenizer_rows_and_steps_are_known(small, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    planned = compute_schedule(small("model=llama3_8b"))
    assert planned.rows and planned.steps and planned.tokens is None
    assert "token lengths are unknown" in planned.notes[0]
    bins = compute_schedule(small("model=llama3_8b", "data.packing=bins"))
    assert bins.rows == planned.rows and bins.steps is None


def test_without_the_data_only_what_the_job_says_is_known(small, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    planned = compute_schedule(
        small("data=prompt", "data.path=nobody/nothing", "trainer.max_steps=7")
    )
    assert planned.steps == 7 and planned.rows is None and "data are unknown" in planned.notes[0]


def test_a_large_source_is_judged_by_its_beginning(small, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 50)
    planned = compute_schedule(small())
    assert planned.steps is None and planned.rows is None and planned.fullest
    assert "first 50" in planned.notes[0]


def test_rows_that_are_here_and_wrong_are_no_guess(small, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "a", "answer": "b"}) + "\n{broken\n")
    with pytest.raises(UserError) as caught:
        compute_schedule(build_job("data=prompt", f"data.path={file}", "data.validation=null",
                       "data.columns={prompt: question, completion: answer}"))  # fmt: skip
    assert caught.value.where == f"{file}:2"


@pytest.fixture
def runs(tmp_path):
    """Write what a finished run leaves on disk, without training."""
    folder = RunDir.create(tmp_path / "runs", "tiny")
    job = build_job(*WORDS)
    write_record(folder, replace(job.composed, config=job.config))
    result = {"status": "finished", "tok_s": 500.0}
    (folder.path / "result.json").write_text(json.dumps(result))
    return folder.path


def config_of(run):
    from ftcli.config import load

    return load(run / "config.yaml").config


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_speed_of_a_run_of_the_same_kind(runs):
    assert find_speed(config_of(runs), runs.parents[1]) == (500.0, 1)


def test_the_median_of_several(runs):
    for index, speed in enumerate((100.0, 300.0, 9000.0)):
        copy = runs.parent / str(index)
        shutil.copytree(runs, copy, symlinks=True)
        change(copy / "result.json", tok_s=speed)
    shutil.rmtree(runs)
    assert find_speed(config_of(runs.parent / "0"), runs.parents[1]) == (300.0, 3)


@pytest.mark.parametrize("key", ["model.quantization", "method.r", "trainer.precision"])
def test_another_kind_of_run_says_nothing(runs, key):
    config = config_of(runs)
    group, name = key.split(".")
    config[group][name] = "another"
    assert find_speed(config, runs.parents[1]) is None


def test_another_machine_says_nothing(runs):
    change(runs / "env.json", processor="another")
    assert find_speed(config_of(runs), runs.parents[1]) is None


def test_a_run_that_did_not_finish_says_nothing(runs):
    change(runs / "result.json", status="stopped by SIGTERM")
    assert find_speed(config_of(runs), runs.parents[1]) is None


def test_a_plan_gives_a_time_only_then(runs, tmp_path):
    words = (*WORDS, f"data.cache_dir={tmp_path / 'tokens'}")
    here = Plan(build_job(*words, f"run.dir={runs.parents[1]}"))
    assert here.time.seconds == here.schedule.total_tokens / 500
    assert Plan(build_job(*words, f"run.dir={tmp_path / 'nowhere'}")).time is None
    assert Plan(build_job(*words, f"run.dir={runs.parents[1]}"), gpu=24).time is None
