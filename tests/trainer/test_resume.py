"""kill -9 at a random step and resume: weights and metrics are equal to those of the undisturbed run, to the bit."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume, train
from ftcli.run.build import create_run_in_new_dir
from tests.warm_process import start_ftcli

CLOCK = {"time", "tok_s", "mem_gb"}
SHORT = [
    "run.dir=RUNS", "data.limit=48", "trainer.epochs=null", "trainer.max_steps=6",
    "trainer.batch_size=2", "trainer.save_every=2", "trainer.log_every=3", "trainer.eval_every=4",
    "~eval.generation", "method.r=4",
]  # fmt: skip
CASES = {
    "nf4_flat_accumulation": ["trainer.gradient_accumulation_steps=2", "method.lora_dropout=0.1"],
    "bins": ["model.quantization=none", "method=lora", "data.packing=bins", "data.max_length=192"],
    "padded_bf16": ["data.packing=none", "trainer.precision=bf16", "model.dtype=bfloat16"],
    "full_muon": ["model.quantization=none", "method=full", "optimizer=muon"],
}
FAST = {"nf4_flat_accumulation", "bins"}


def arguments(case: str, runs: Path) -> list[str]:
    changes = [o for o in CASES[case] if not o.startswith("method=full")]
    shared = [o.replace("RUNS", str(runs)) for o in SHORT]
    if "method=full" in CASES[case]:
        shared = [o for o in shared if not o.startswith("method.")]
        changes = ["method=full", "~method.r", "~method.lora_alpha", *changes]
    return [*shared, *changes]


def start(case: str, runs: Path) -> Path:
    composed = compose("qlora_mini", arguments(case, runs))
    validate_and_convert(composed)
    return Path(train(composed)["run"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[[str], Path]:
    """A function: the run of a case from beginning to end, trained once."""
    return cache(lambda case: start(case, tmp_path_factory.mktemp("whole")))


def same(run: Path, expected: Path) -> None:
    """Final weights bit by bit, and every logged figure that is not a clock's."""
    a, b = (load_file(p / "checkpoints/last/adapter.safetensors") for p in (run, expected))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    rows = [
        [{k: v for k, v in row.items() if k not in CLOCK} for row in RunDir(p).metrics()]
        for p in (run, expected)
    ]
    assert rows[0] == rows[1]
    assert RunDir(run).result()["metrics"] == RunDir(expected).result()["metrics"]


def kill_after(case: str, runs: Path, step: int) -> Path:
    """Start the run as a process of its own and kill it once it has logged or saved `step`."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = start_ftcli(["train", "qlora_mini", *arguments(case, runs)], environment=environment)
    deadline = time.monotonic() + 240
    while process.is_alive() and time.monotonic() < deadline:
        if list(runs.glob(f"*/*/checkpoints/step-{step:06d}/DONE")):
            time.sleep(random.uniform(0, 0.1))
            process.kill()
            break
        time.sleep(0.02)
    process.join()
    folders = [path for path in (runs / "qlora_mini").iterdir() if not path.is_symlink()]
    return folders[0]


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in FAST else [pytest.mark.slow]) for c in CASES]
)
def test_killed_and_resumed_equals_uninterrupted(case, undisturbed, tmp_path):
    whole = undisturbed(case)
    killed = kill_after(case, tmp_path / "killed", random.choice([2, 4]))
    assert RunDir(killed).result() == {}, "the run was over before it could be killed"
    resume(killed)
    same(whole, killed)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was asked to stop after its first steps."""
    runs = tmp_path_factory.mktemp("stopped")
    composed = compose("qlora_mini", arguments("bins", runs))
    validate_and_convert(composed)
    run = create_run_in_new_dir(composed)

    class Stop:
        """Requests a stop by creating the file STOP."""

        def __getattr__(self, hook):
            return lambda *args: None

        def state_dict(self):
            return {}

        def after_step(self, state):
            if state.step == 3:
                (run.dir.path / "STOP").touch()

    run.loggers["stop"] = Stop()
    outcome = run.trainer.fit(run)
    assert outcome.status == "stopped by STOP" and outcome.state.step == 3
    return run.dir.path


def test_a_stopped_run_has_saved_and_goes_on(stopped, undisturbed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stopped, copy, symlinks=True)
    assert resume(copy)["status"] == "finished"
    same(undisturbed("bins"), copy)
    with pytest.raises(UserError, match="is finished"):
        resume(copy)


def test_a_changed_config_is_refused_and_named(stopped, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stopped, copy, symlinks=True)
    path = copy / "config.yaml"
    path.write_text(re.sub(r"\blr: [0-9.]+", "lr: 0.123", path.read_text()))
    with pytest.raises(UserError, match="optimizer.lr") as caught:
        resume(copy)
    assert "now it is 0.123" in str(caught.value) and "--allow optimizer.lr" in str(caught.value)


def test_changed_data_is_refused_and_named(tmp_path):
    rows = tmp_path / "rows.jsonl"
    lines = [f'{{"prompt": "say {i}", "completion": "number {i} it is"}}\n' for i in range(40)]
    rows.write_text("".join(lines))
    options = [
        "data=prompt", f"data.path={rows}", "~eval", "trainer.batch_size=2", "trainer.epochs=null",
        "trainer.max_steps=4", "trainer.save_every=2", f"run.dir={tmp_path}/runs", "method.r=4",
    ]  # fmt: skip
    composed = compose("qlora_mini", options)
    validate_and_convert(composed)
    path = Path(train(composed)["run"])
    (path / "result.json").unlink()
    rows.write_text("".join(lines[1:]))
    with pytest.raises(UserError, match="position cannot be restored") as caught:
        resume(path)
    assert "--allow data" in str(caught.value)
