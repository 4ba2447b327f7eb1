"""A grid from its words to its results."""

from __future__ import annotations

import csv
import json
import os
import signal

import pytest
import yaml

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import FAILED, INTERRUPTED, OK, Problems, UserError
from ftcli.sweeps.sweep import resume_sweep, start_sweep


def by_lr(config):
    return [3.0, 2.0 + config["optimizer"]["lr"]]


def rows(folder):
    with open(folder / "sweep.csv") as file:
        return list(csv.DictReader(file))


def test_a_grid_leaves_a_folder_a_trial_a_table_and_the_best_config(tmp_path, plan, answers):
    answers(by_lr)
    done = start_sweep(plan("method.r=2,4", "optimizer.lr=1e-2,1e-3"), tmp_path)
    assert done.status == OK and done.folder.parent == tmp_path / "qlora_mini"
    assert (done.folder.parent / "latest").resolve() == done.folder
    table = rows(done.folder)
    assert [row["folder"] for row in table] == [
        "0-r_2-lr_0.01", "1-r_2-lr_0.001", "2-r_4-lr_0.01", "3-r_4-lr_0.001",
    ]  # fmt: skip
    assert [float(row["eval.loss"]) for row in table] == [2.01, 2.001, 2.01, 2.001]
    assert {row["status"] for row in table} == {"finished"}
    assert done.best.number == 1
    best = compose(done.folder / "best.yaml", ["trainer.max_steps=1"])
    validate_and_convert(best)
    assert (best.config["method"]["r"], best.config["optimizer"]["lr"]) == (2, 0.001)
    assert best.config["run"]["name"] == "qlora_mini" and "launcher" not in best.config
    assert (done.folder / "best.yaml").read_text().startswith("# Best of a sweep: r=2 lr=0.001")
    drawn = {path.name for path in (done.folder / "plots").iterdir()}
    assert drawn == {"parallel_coordinates.png", "importance.png"}


def test_a_failing_trial_is_recorded_and_the_others_go_on(tmp_path, plan, answers):
    answers(lambda config: "it broke" if config["method"]["r"] == 4 else by_lr(config))
    done = start_sweep(plan("method.r=4,2,8"), tmp_path)
    assert done.status == FAILED and "1 of 3 trials failed" in done.note
    assert [(row["status"], row["error"]) for row in rows(done.folder)] == [
        ("failed", "it broke"), ("finished", ""), ("finished", ""),
    ]  # fmt: skip
    assert json.dumps(done.as_dict()) and done.as_dict()["counts"] == {"failed": 1, "finished": 2}


def test_a_resume_trains_only_what_has_not_finished(tmp_path, plan, answers):
    broken = answers(lambda config: "it broke" if config["method"]["r"] == 4 else by_lr(config))
    folder = start_sweep(plan("method.r=2,4,8"), tmp_path).folder
    assert sorted(broken.started) == ["0-r_2", "1-r_4", "2-r_8"]
    fixed = answers(by_lr)
    done = resume_sweep(folder)
    assert fixed.started == ["1-r_4"] and done.status == OK
    assert {row["status"] for row in rows(folder)} == {"finished"}


def test_ctrl_c_stops_the_trials_and_leaves_a_sweep_to_resume(tmp_path, plan, answers):
    def interrupting(config):
        if config["method"]["r"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return [3.0] * 5

    answers(interrupting)
    done = start_sweep(plan("method.r=2,4,8,16"), tmp_path)
    assert done.status == INTERRUPTED and f"--resume {done.folder}" in done.note
    counts = done.as_dict()["counts"]
    assert counts["finished"] == 2 and "failed" not in counts
    again = answers(by_lr)
    assert resume_sweep(done.folder).status == OK
    assert len(again.started) == 2


def test_all_mistakes_of_all_trials_are_said_before_anything_starts(tmp_path, plan, answers):
    unused = answers(by_lr)
    with pytest.raises(Problems) as caught:
        start_sweep(plan("method=lora,lorra", "trainer.max_steps=2,-1"), tmp_path)
    messages = [str(problem) for problem in caught.value.problems]
    assert len(messages) == 2
    assert "trainer.max_steps" in messages[0] and "in 1 of 4 trials" in messages[0]
    assert "lorra" in messages[1] and "in 2 of 4 trials" in messages[1]
    assert not unused.started and not any(tmp_path.iterdir())


def test_a_mistake_of_some_trials_names_the_first(tmp_path, plan, answers):
    answers(by_lr)
    with pytest.raises(UserError, match=r"in 2 of 4 trials, first: r=2 max_steps=-1"):
        start_sweep(plan("method.r=2,4", "trainer.max_steps=2,-1"), tmp_path)


def test_the_best_follows_the_metric(tmp_path, plan, answers):
    answers(by_lr)
    words = ["optimizer.lr=1e-2,1e-3"]
    assert start_sweep(plan(*words, lower=False), tmp_path).best.number == 0
    lost = start_sweep(plan(*words, metric="eval.bleu"), tmp_path)
    assert lost.best is None and lost.status == FAILED
    assert "no trial measured eval.bleu; there is: eval.loss" in lost.note


def test_a_metric_that_nobody_measures_is_said_before(tmp_path, plan, answers):
    answers(by_lr)
    with pytest.raises(UserError, match="the job has no evaluator"):
        start_sweep(plan("optimizer.lr=1e-2,1e-3", "~eval.loss"), tmp_path)


def test_two_processes_do_not_share_a_sweep(tmp_path, plan, answers):
    from ftcli.core.run_lock import lock_file

    answers(by_lr)
    folder = start_sweep(plan("method.r=2,4"), tmp_path).folder
    with lock_file(folder / ".lock", wait=False), pytest.raises(UserError, match="another process"):
        resume_sweep(folder)


def test_a_folder_that_is_no_sweep_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a sweep"):
        resume_sweep(tmp_path)


def test_the_record_of_a_trial_is_its_whole_config(tmp_path, plan, answers):
    answers(by_lr)
    folder = start_sweep(plan("method=lora,dora"), tmp_path).folder
    kept = yaml.safe_load((folder / "1-method_dora" / "config.yaml").read_text())
    assert kept["method"]["use_dora"] is True and kept["trainer"]["max_steps"] == 2
