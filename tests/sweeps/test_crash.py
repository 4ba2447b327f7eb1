"""Sweeps whose process dies: nothing finished is lost, nothing is trained by two workers at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftcli.core.errors import INTERRUPTED
from ftcli.core.run_lock import lock_file
from ftcli.sweeps.sweep import resume_sweep
from ftcli.sweeps.trial import FINISHED
from ftcli.sweeps.worker import start_worker

pytestmark = pytest.mark.slow


@pytest.fixture
def launched(plan):
    """Start a sweep as a process of its own; whatever is left of it ends with the test."""
    started = []

    def launch(folder: Path, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "ftcli", "sweep", "qlora_mini", *plan().overrides, *words]
        command += ["--dir", str(folder)]
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=hears_ctrl_c
            )
        )
        return started[-1]

    yield launch
    for process in started:
        process.kill()


def hears_ctrl_c() -> None:
    """A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(condition, seconds: float = 240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def results(folder: Path) -> dict[str, float]:
    done = folder.glob("qlora_mini/2*/*/result.json")
    return {p.parent.name: p.stat().st_mtime for p in done if "finished" in p.read_text()}


def test_a_killed_grid_goes_on_where_it_was(tmp_path, launched):
    sweep = launched(tmp_path, "optimizer.lr=1e-2,1e-3,1e-4", "trainer.max_steps=30")
    wait_for(lambda: results(tmp_path))
    second = wait_for(lambda: list(tmp_path.glob("*/2*/1-*/checkpoints/step-*/DONE")))[0].parents[2]
    sweep.kill()
    sweep.wait()
    kept = results(tmp_path)
    with lock_file(second / ".lock", wait=True):  # its worker saves and ends by itself
        assert "stopped by SIGTERM" in (second / "result.json").read_text()
    done = resume_sweep(second.parent)
    assert [trial.status for trial in done.trials] == [FINISHED] * 3
    assert {name: when for name, when in results(tmp_path).items() if name in kept} == kept
    events = [json.loads(line)["event"] for line in (second / "events.jsonl").open()]
    assert events.count("resume") == 1


def test_a_killed_search_loses_no_finished_trial_and_prunes(tmp_path, launched):
    pytest.importorskip("optuna")
    sweep = launched(
        tmp_path, "optimizer.lr=interval(1e-6,3e-2)", "trainer.max_steps=8", "trainer.save_every=null",
        "--optuna", "--trials", "12", "--prune", "--jobs", "2",
    )  # fmt: skip
    wait_for(lambda: len(results(tmp_path)) >= 3)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    kept = results(tmp_path)
    (folder,) = tmp_path.glob("qlora_mini/2*")
    done = resume_sweep(folder)
    assert len(done.trials) == 12 and {t.status for t in done.trials} == {FINISHED, "pruned"}
    assert {name: when for name, when in results(tmp_path).items() if name in kept} == kept


def test_ctrl_c_saves_and_exits_with_130(tmp_path, launched):
    sweep = launched(tmp_path, "optimizer.lr=1e-2,1e-3", "trainer.max_steps=400")
    wait_for(lambda: list(tmp_path.glob("*/2*/0-*/checkpoints/step-*/DONE")))
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(120) == INTERRUPTED
    (result,) = tmp_path.glob("qlora_mini/2*/*/result.json")
    assert json.loads(result.read_text())["status"] == "stopped by SIGTERM"


def test_a_second_worker_waits_and_finds_the_trial_finished(tmp_path, plan):
    from ftcli.sweeps.composition import compose_trial, write_trial

    folder = tmp_path / "trial"
    write_trial(compose_trial("qlora_mini", plan().overrides), folder)
    workers = [start_worker(folder, {}) for _ in range(2)]
    assert [worker.wait(240) for worker in workers] == [0, 0]
    events = [json.loads(line)["event"] for line in (folder / "events.jsonl").open()]
    assert events.count("finished") == 1 and "resume" not in events
