"""Checkpoints go by rule; what resume and the verbs after training need stays."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from ftcli.cli.app import run as ftcli
from ftcli.core import atomic


@pytest.fixture(scope="module")
def long_run(train_tiny) -> Path:
    """A finished run with checkpoints of steps 1 to 4, the best at step 2."""
    steps = ("trainer.max_steps=4", "trainer.save_every=1", "trainer.keep_last=9")
    return train_tiny(
        "run.name=long", "method=lora", "model.quantization=none", "eval=none", *steps
    )


@pytest.fixture
def runs(long_run, work) -> Path:
    """`runs/long/a` in the working folder, a copy of that run."""
    folder = shutil.copytree(long_run, work / "runs" / "long" / "a", symlinks=True)
    atomic.write_link(folder / "checkpoints" / "best", "step-000002")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:06d}" for number in numbers]


def test_nothing_goes_without_yes(runs, capsys):
    before = sorted(runs.rglob("*"))
    assert ftcli(["clean"]) == 0
    said = capsys.readouterr().out
    assert "2 checkpoints of 1 run," in said and "--yes" in said
    assert sorted(runs.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "stay"),
    [
        ([], steps(2, 4)),
        (["--no-keep-best"], steps(4)),
        (["--keep-last", "2", "--no-keep-best"], steps(3, 4)),
        (["--keep-every", "3"], steps(2, 3, 4)),
    ],
)
def test_what_a_rule_keeps(runs, words, stay):
    assert ftcli(["clean", "runs", "--yes", *words]) == 0
    assert names(runs) == stay
    events = (runs / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["kept"] == stay


def test_a_link_to_a_removed_checkpoint_goes_and_is_announced(runs, capsys):
    assert ftcli(["clean", "--no-keep-best", "--yes"]) == 0
    assert "step-000002 is the best" in capsys.readouterr().out
    checkpoints = runs / "checkpoints"
    assert not (checkpoints / "best").is_symlink() and (checkpoints / "last").exists()


def test_a_cleaned_run_goes_on_and_is_judged(runs):
    from ftcli.jobs.train import resume
    from ftcli.run.build import open_run

    assert ftcli(["clean", "--yes", "--no-keep-best"]) == 0
    assert open_run(runs).evaluated_step == 4
    assert resume(runs, overrides=["trainer.max_steps=5"])["step"] == 5


def test_an_unfinished_run_keeps_the_one_that_resume_falls_back_on(runs, capsys):
    (runs / "result.json").unlink()
    assert ftcli(["clean", "--no-keep-best", "--yes"]) == 0
    assert names(runs) == steps(3, 4) and "unfinished" in capsys.readouterr().out


def test_nothing_goes_beside_a_damaged_newest(runs, capsys):
    file = runs / "checkpoints" / "step-000004" / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert ftcli(["clean", "--yes"]) == 0
    assert names(runs) == steps(1, 2, 3, 4) and "damaged" in capsys.readouterr().out


def test_a_run_at_work_is_left_alone(runs, capsys):
    with open(runs / ".busy", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert ftcli(["clean", "--yes"]) == 0
    assert names(runs) == steps(1, 2, 3, 4)
    assert "another process trains this run" in capsys.readouterr().out


def test_what_a_crash_left_goes_and_what_a_link_points_at_stays(runs, tmp_path):
    (runs / "checkpoints" / "step-000001" / "DONE").unlink()
    elsewhere = shutil.copytree(runs / "checkpoints" / "step-000003", tmp_path / "elsewhere")
    shutil.rmtree(runs / "checkpoints" / "step-000003")
    (runs / "checkpoints" / "step-000003").symlink_to(elsewhere)
    assert ftcli(["clean", "--yes"]) == 0
    assert names(runs) == steps(2, 3, 4) and (elsewhere / "DONE").exists()


def test_of_an_ended_sweep_only_the_best_trial_keeps_any(runs, capsys):
    from ftcli.sweeps.plan import Plan

    sweep = runs.parent
    Plan("job", [], metric="eval.loss", lower=True).write(sweep)
    shutil.copytree(runs, sweep / "b", symlinks=True)
    for name, loss in (("a", 2.0), ("b", 1.0)):
        result = json.loads((sweep / name / "result.json").read_text())
        atomic.write_json(sweep / name / "result.json", result | {"metrics": {"eval.loss": loss}})
    assert ftcli(["clean", "--sweep-best", "--yes"]) == 0
    assert names(sweep / "a") == [] and names(sweep / "b") == steps(2, 4)
    assert "no checkpoint stays" in capsys.readouterr().out
    assert list((sweep / "a" / "adapter").glob("*.safetensors"))


def test_of_a_sweep_that_goes_on_every_trial_keeps_its_last(runs):
    from ftcli.sweeps.plan import Plan

    Plan("job", []).write(runs.parent)
    other = shutil.copytree(runs, runs.parent / "b", symlinks=True)
    (other / "result.json").unlink()
    assert ftcli(["clean", "--sweep-best", "--yes"]) == 0
    assert names(runs) == steps(2, 4)


def test_a_folder_without_runs(work, capsys):
    (work / "runs").mkdir()
    assert ftcli(["clean"]) == 2
    assert "holds no run" in capsys.readouterr().err
