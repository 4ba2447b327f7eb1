"""A trial is trained once, taken as it is when finished, and goes on when it was cut off."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.core.config_hash import config_hash
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.trial import complete_job

JOB = [
    "data.limit=24", "trainer.max_steps=3", "trainer.batch_size=2", "trainer.save_every=1",
    "~eval.generation", "method.r=2", "trainer.log_every=1",
]  # fmt: skip


def job(*overrides):
    composed = compose("qlora_mini", [*JOB, *overrides])
    validate_and_convert(composed)
    return composed


@pytest.mark.slow
def test_a_finished_trial_is_not_repeated(tmp_path, warm_trials):
    first = complete_job(job(), tmp_path / "one")
    log = (tmp_path / "one" / "train.log").read_text()
    assert first["step"] == 3 and first["run"] == str(tmp_path / "one")
    assert complete_job(job(), tmp_path / "one") == first
    assert (tmp_path / "one" / "train.log").read_text() == log


def test_a_trial_cut_off_goes_on_at_its_checkpoint(tmp_path, warm_trials):
    whole = complete_job(job(), tmp_path / "one")
    (tmp_path / "one" / "result.json").unlink()
    again = complete_job(job(), tmp_path / "one")
    assert again["metrics"] == whole["metrics"]
    events = (tmp_path / "one" / "events.jsonl").read_text().splitlines()
    assert [json.loads(e)["event"] for e in events].count("resume") == 1
    assert [row["step"] for row in RunDir(tmp_path / "one").metrics()] == [0, 1, 2, 3, 3]


@pytest.mark.slow
def test_a_trial_killed_between_its_result_and_its_report_gets_the_report(tmp_path, warm_trials):
    whole = complete_job(job(), tmp_path / "one")
    (tmp_path / "one" / "report.md").unlink()
    (tmp_path / "one" / ".report.md.x1.unfinished").touch()
    assert complete_job(job(), tmp_path / "one") == whole
    assert (tmp_path / "one" / "report.md").exists()
    assert not list((tmp_path / "one").glob("*.unfinished"))


def test_a_refused_trial_leaves_no_folder(tmp_path, warm_trials):
    with pytest.raises(UserError, match="nothing was trained"):
        complete_job(job("method.target_modules=[no_such]"), tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_failing_trial_says_where_its_log_is(tmp_path, warm_trials):
    with pytest.raises(UserError, match="status 1") as caught:
        complete_job(job("optimizer.lr=1e30"), tmp_path / "one")
    assert "train.log" in caught.value.fix and (tmp_path / "one" / "train.log").exists()


def test_the_address_follows_what_is_computed_and_nothing_else():
    base = config_hash(job().config)
    assert config_hash(job("run.name=elsewhere", "logger=tensorboard").config) == base
    assert config_hash(job("seed=1").config) != base


def test_a_trial_ends_with_its_caller_and_goes_on_later(tmp_path):
    """kill -9 of a sweep or a reproduction leaves no process behind that writes the same folder."""
    overrides = [*JOB, "trainer.max_steps=400", "trainer.save_every=null"]
    script = (
        "from pathlib import Path; from ftcli.config import compose, validate_and_convert\n"
        f"job = compose('qlora_mini', {overrides!r}); validate_and_convert(job)\n"
        "from ftcli.jobs.trial import complete_job\n"
        f"complete_job(job, Path({str(tmp_path / 'one')!r}))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while len(RunDir(tmp_path / "one").metrics()) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    caller.kill()
    caller.wait()
    while not RunDir(tmp_path / "one").result() and time.monotonic() < deadline:
        time.sleep(0.1)
    result = RunDir(tmp_path / "one").result()
    assert result["status"] == "stopped by SIGTERM" and 0 < result["step"] < 400
