"""Ranks that fail: one message names the cause, all end soon, and the run goes on; machines meet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ftcli.core.errors import FAILED, INTERRUPTED, OUT_OF_MEMORY, USER, UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.launch import LaunchTopology, Machines, _agent_environment
from ftcli.jobs.rank_failures import find_cause
from ftcli.jobs.train import resume

JOB = (
    "qlora_mini", "data.limit=40", "data.test=null", "eval=none", "trainer.epochs=null", "trainer.batch_size=2",
    "trainer.save_every=2", "trainer.log_every=1", "method=lora", "method.r=4", "model.quantization=none",
    "trainer.precision=fp32", "model.dtype=float32", "scheduler=constant", "~scheduler.warmup_ratio",
)  # fmt: skip


def failure(exitcode, timestamp=0, **fields):
    message = json.dumps(fields) if fields else "<NONE>"
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp, message=message)


def said(code, what):
    return {"what": what, "where": None, "fix": None, "code": code}


def test_the_cause_is_what_a_rank_says_then_a_signal_then_any_error():
    lost = failure(1, 5, **said(FAILED, "RuntimeError: connection closed"))
    assert (
        find_cause({0: lost, 1: failure(3, 6, **said(OUT_OF_MEMORY, "memory ran out"))}).code == 3
    )
    assert find_cause({0: lost, 1: failure(2, 6, **said(USER, "no rows"))}).what == "no rows"
    assert "rank 1 was ended by SIGKILL" in find_cause({0: lost, 1: failure(-9, 6)}).what
    assert "rank 0 failed: RuntimeError" in find_cause({0: lost, 1: failure(1, 9)}).what
    assert "rank 1 failed: it ended with status 7" in find_cause({1: failure(7)}).what


def test_machines_need_a_place_to_meet_and_a_number():
    with pytest.raises(UserError, match="needs the place where the machines meet"):
        Machines(2)
    with pytest.raises(UserError, match="--node-rank 2 is not among 2"):
        Machines(2, 2, "localhost:1")


def test_signals_are_handled_as_before_once_the_ranks_have_ended():
    before = signal.getsignal(signal.SIGTERM)
    with _agent_environment(1):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


def start(*words):
    command = [sys.executable, "-m", "ftcli", "train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)  # fmt: skip


def wait_for_run(folder, steps):
    end = time.monotonic() + 200
    while time.monotonic() < end:
        for path in folder.glob("*/*/metrics.jsonl"):
            if len([row for row in RunDir(path.parent).metrics() if "loss" in row]) >= steps:
                return path.parent.resolve()  # not the link `latest`
        time.sleep(0.1)
    raise AssertionError("no run has begun")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_rank_ends_all_with_one_message_and_the_run_resumes(tmp_path, strategy):
    words = ("trainer.max_steps=500", f"trainer.strategy={strategy}", f"run.dir={tmp_path}")
    parent = start(*JOB, *words, "-p", "2")
    run = wait_for_run(tmp_path, 3)
    ranks = psutil.Process(parent.pid).children()
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    output, _ = parent.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert parent.returncode == FAILED
    assert not [process for process in ranks if process.is_running()]
    assert output.count("was ended by SIGKILL") == 1 and "Traceback" not in output
    assert f"ftcli resume {run} -p 2 goes on from step-" in output.replace("\n", " ")
    saved = json.loads((run / "checkpoints/last/state.json").read_text())["step"]
    steps = f"trainer.max_steps={saved + 2}"
    assert resume(run, overrides=[steps], topology=LaunchTopology(2))["step"] == saved + 2


@pytest.mark.slow
def test_an_interrupted_parent_lets_the_ranks_save(tmp_path):
    parent = start(*JOB, "trainer.max_steps=500", f"run.dir={tmp_path}", "-p", "2")
    run = wait_for_run(tmp_path, 1)
    parent.send_signal(signal.SIGINT)
    output, _ = parent.communicate(timeout=60)
    assert parent.returncode == INTERRUPTED and "Traceback" not in output
    result = RunDir(run).result()
    assert result["status"] == "stopped by SIGINT"
    assert (run / "checkpoints" / f"step-{result['step']:06d}" / "DONE").exists()


@pytest.mark.slow
def test_two_machines_meet_and_train_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    words = (*JOB, "trainer=fsdp2", "trainer.max_steps=2", f"run.dir={tmp_path}")
    both = [
        start(*words, "--nodes", "2", "--node-rank", str(n), "--rendezvous", place) for n in (1, 0)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    (result,) = {path.resolve() for path in tmp_path.glob("*/*/result.json")}
    assert json.loads(result.read_text())["step"] == 2
    shards = Path(result).parent / "checkpoints/last"
    assert len(list(shards.glob("shard-*.safetensors"))) == 2
