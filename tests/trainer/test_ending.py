"""The checkpoint of the last step knows the scores that are measured after it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.core.run import Run
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume
from ftcli.run.build import build_run, create_run_in_new_dir
from ftcli.trainer.checkpoint import Checkpoints

SMALL = [
    "data.limit=8", "data.validation=0.25", "~eval.generation", "method.r=2", "model.quantization=none",
    "method=lora", "trainer.batch_size=2", "trainer.epochs=null", "trainer.log_every=1",
    "trainer.save_every=null", "trainer.keep_last=1",
]  # fmt: skip
CLOCK = ("time", "tok_s", "mem_gb")


@dataclass
class Script:
    """An evaluator that returns a given loss at each step."""

    losses: dict[int, float]
    periodic: bool = True

    def __call__(self, run: Run) -> dict[str, float]:
        return {"loss": self.losses[run.evaluated_step]}


def composed(folder: Path, *overrides: str):
    job = compose("qlora_mini", [*SMALL, f"run.dir={folder}", *overrides])
    validate_and_convert(job)
    return job


def read_state(run_dir: RunDir, step: int) -> dict:
    file = run_dir.checkpoints / f"step-{step:06d}" / "state.json"
    return json.loads(file.read_text(encoding="utf-8"))


def logged(run_dir: RunDir) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in run_dir.metrics()]


def test_the_best_of_the_last_evaluation_is_kept_when_the_run_goes_on(tmp_path):
    job = composed(tmp_path, "trainer.max_steps=2")
    run = create_run_in_new_dir(job)
    assert run.dir is not None
    run.evaluators = {"loss": Script({0: 3.0, 2: 1.0})}
    run.trainer.fit(run)
    assert read_state(run.dir, 2)["best"] == 1.0 and read_state(run.dir, 2)["is_best"]
    checkpoint = Checkpoints(run.dir.checkpoints).find("last")
    assert checkpoint == Checkpoints(run.dir.checkpoints).find("best")

    job.config["trainer"]["max_steps"] = 5
    longer = build_run(job.config, run.dir)
    longer.evaluators = {"loss": Script({5: 2.0})}
    longer.trainer.fit(longer, checkpoint=checkpoint)
    assert read_state(run.dir, 5)["best"] == 1.0 and not read_state(run.dir, 5)["is_best"]
    assert Checkpoints(run.dir.checkpoints).find("last").name == "step-000005"
    assert Checkpoints(run.dir.checkpoints).find("best").name == "step-000002"


def test_a_run_killed_after_its_last_checkpoint_ends_as_if_it_had_not_been(tmp_path):
    """The process dies between the last save and result.json."""
    run = create_run_in_new_dir(composed(tmp_path, "trainer.max_steps=2"))
    assert run.dir is not None
    outcome = run.trainer.fit(run)
    rows, state = logged(run.dir), read_state(run.dir, 2)
    assert state["lines"] == len(rows) - 1 and "eval.loss" in rows[-1]
    result = resume(run.dir.path)
    assert result["status"] == "finished" and result["metrics"] == outcome.after
    assert logged(run.dir) == rows
    assert read_state(run.dir, 2) == state and state["best"] == outcome.after["eval.loss"]


def test_an_evaluation_that_fails_costs_no_steps(tmp_path):
    job = composed(tmp_path, "trainer.max_steps=2")
    run = create_run_in_new_dir(job)
    assert run.dir is not None
    run.evaluators = {"loss": Script({0: 3.0})}
    with pytest.raises(KeyError):
        run.trainer.fit(run)
    checkpoint = Checkpoints(run.dir.checkpoints).find("last")
    assert checkpoint.name == "step-000002" and read_state(run.dir, 2)["best"] is None

    again = build_run(job.config, run.dir)
    again.evaluators = {"loss": Script({2: 1.0})}
    outcome = again.trainer.fit(again, checkpoint=checkpoint)
    assert outcome.state.step == 2 and outcome.after == {"eval.loss": 1.0}
    assert read_state(run.dir, 2)["best"] == 1.0
    assert Checkpoints(run.dir.checkpoints).find("best").name == "step-000002"
