"""A speed is taken from earlier runs of the same kind on the same hardware, or not at all."""

import json
import shutil
from dataclasses import replace

import pytest

from ftcli.core.run_dir import RunDir
from ftcli.planning.plan import Plan
from ftcli.planning.throughput import measured
from ftcli.run.record import write_record
from tests.planning.drafts import draft

WORDS = ("method.r=4", "trainer.batch_size=8", "data.limit=64", "data.validation=0.1")


@pytest.fixture
def runs(tmp_path):
    """What a finished run leaves of itself, its training left out."""
    folder = RunDir.create(tmp_path / "runs", "tiny")
    job = draft(*WORDS)
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
    assert measured(config_of(runs), runs.parents[1]) == (500.0, 1)


def test_the_median_of_several(runs):
    for index, speed in enumerate((100.0, 300.0, 9000.0)):
        copy = runs.parent / str(index)
        shutil.copytree(runs, copy, symlinks=True)
        change(copy / "result.json", tok_s=speed)
    shutil.rmtree(runs)
    assert measured(config_of(runs.parent / "0"), runs.parents[1]) == (300.0, 3)


@pytest.mark.parametrize("key", ["model.quantization", "method.r", "trainer.precision"])
def test_another_kind_of_run_says_nothing(runs, key):
    config = config_of(runs)
    group, name = key.split(".")
    config[group][name] = "another"
    assert measured(config, runs.parents[1]) is None


def test_another_machine_says_nothing(runs):
    change(runs / "env.json", processor="another")
    assert measured(config_of(runs), runs.parents[1]) is None


def test_a_run_that_did_not_finish_says_nothing(runs):
    change(runs / "result.json", status="stopped by SIGTERM")
    assert measured(config_of(runs), runs.parents[1]) is None


def test_a_plan_gives_a_time_only_then(runs, tmp_path):
    words = (*WORDS, f"data.cache_dir={tmp_path / 'tokens'}")
    here = Plan(draft(*words, f"run.dir={runs.parents[1]}"))
    assert here.time.seconds == here.schedule.total_tokens / 500
    assert Plan(draft(*words, f"run.dir={tmp_path / 'nowhere'}")).time is None
    assert Plan(draft(*words, f"run.dir={runs.parents[1]}"), gpu=24).time is None
