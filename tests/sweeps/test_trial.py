"""Names of folders, and what is read from them."""

from __future__ import annotations

import json

import pytest

from ftcli.sweeps.trial import (
    FAILED,
    FINISHED,
    PRUNED,
    STOPPED,
    Trial,
    describe_point,
    folder_name,
    read_figures,
    shorten_keys,
)  # fmt: skip


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ({"method.r": "8", "optimizer.lr": "1e-4"}, "03-r_8-lr_1e-4"),
        ({"optimizer.lr": "0.0012470427634325776"}, "03-lr_0.001247"),
        ({"method.target_modules": "[q_proj,'v proj']"}, "03-target_modules_q_proj_v_proj"),
        ({"data.path": "a/b c=d,e:{f}"}, "03-path_a_b_c_d_e_f"),
        ({"method": "lora", "model/sub": "x"}, "03-method_lora-sub_x"),
    ],
)
def test_folders_are_named_by_what_changes_in_plain_characters(point, name):
    assert folder_name(3, 2, point) == name


def test_long_names_are_cut_and_stay_distinct_by_number():
    point = {"data.path": "x" * 300}
    assert len(folder_name(0, 1, point)) == 80
    assert folder_name(0, 1, point) != folder_name(1, 1, point)


def test_names_are_values_of_overrides_and_keep_keys_apart():
    from ftcli.sweeps.space import parse_value

    name = folder_name(0, 1, {"method.r": "8", "eval.loss.r": "-1e-4"})
    assert parse_value(f"sweeps/{name}") == f"sweeps/{name}"
    assert shorten_keys(["method.r", "eval.r", "optimizer.lr"]) == {
        "method.r": "method.r", "eval.r": "eval.r", "optimizer.lr": "lr",
    }  # fmt: skip
    assert describe_point({"a.lr": "0.00012345678"}) == "lr=0.0001235"


@pytest.mark.parametrize(
    ("said", "code", "pruned", "status"),
    [
        ("finished", 0, False, FINISHED),
        ("finished", 0, True, FINISHED),
        ("stopped by STOP", 0, True, PRUNED),
        ("stopped by STOP", 0, False, STOPPED),
        ("stopped by SIGTERM", 1, False, STOPPED),  # its time at Slurm was over
        (None, -9, False, FAILED),
    ],
)
def test_a_trial_ends_as_its_result_and_its_worker_say(tmp_path, said, code, pruned, status):
    if said:
        (tmp_path / "result.json").write_text(json.dumps({"status": said}))
    (tmp_path / "STOP").touch()
    trial = Trial(0, {}, [], tmp_path)
    trial.record_exit(code, pruned)
    assert trial.status == status
    assert not (tmp_path / "STOP").exists()  # or it would stop the next one at once
    assert trial.error == (f"ended with status {code}" if status == FAILED else "")


def test_the_reason_of_a_failure_is_the_runs_own_word(tmp_path):
    trial = Trial(0, {}, [], tmp_path)
    (tmp_path / "worker.log").write_text("Traceback\nKeyError: 'x'\n\n")
    trial.record_exit(1)
    assert trial.error == "KeyError: 'x'"
    (tmp_path / "events.jsonl").write_text('{"event": "failed", "error": "no such row\\nmore"}\n')
    trial.record_exit(1)
    assert trial.error == "no such row"


def test_scores_on_the_way_grow_with_the_file(tmp_path):
    trial = Trial(0, {}, [], tmp_path)
    assert trial.scores("eval.loss") == {} and trial.step() is None
    with open(tmp_path / "metrics.jsonl", "a") as file:
        print('{"step": 0, "eval.loss": 4.0}', '{"step": 1, "loss": 3.5}', sep="\n", file=file)
    assert trial.scores("eval.loss") == {} and trial.step() == 1
    with open(tmp_path / "metrics.jsonl", "a") as file:
        print('{"step": 2, "eval.loss": 3.0}', file=file)
    assert trial.scores("eval.loss") == {2: 3.0} and trial.step() == 2
    trial.status = PRUNED
    assert trial.score("eval.loss") == 3.0


def test_figures_are_numbers_by_name():
    result = {"status": "finished", "step": 3, "ok": True, "metrics": {"eval.loss": 2.5}}
    assert read_figures(result) == {"step": 3, "eval.loss": 2.5}
