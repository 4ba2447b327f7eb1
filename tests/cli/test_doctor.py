"""`ftcli doctor` as a user runs it."""

import json

import pytest

from ftcli.planning import doctor


def test_without_training_it_is_a_report(ftcli):
    ended = ftcli("doctor", "--no-train", "--json")
    names = [check["name"] for check in json.loads(ended.out)["checks"]]
    assert ended.status == 0
    for name in ("ftcli", "packages", "bf16", "4-bit", "kernels", "hub", "disk"):
        assert name in names
    assert "train" not in names


def test_a_run_that_fails_is_said_and_is_the_exit_status(ftcli, monkeypatch):
    monkeypatch.setattr(doctor, "SMALL", ("method.no_such_key=1",))
    monkeypatch.setattr("ftcli.planning.doctor.check_four_bit", lambda: iter(()))
    ended = ftcli("doctor")
    assert ended.status == 1
    assert "✗ train" in ended.out and "no_such_key" in ended.out


def test_a_resume_to_other_weights_is_found_out(monkeypatch):
    weights = iter((b"one", b"another"))
    monkeypatch.setattr(doctor, "_run_verb", lambda *words: None)
    monkeypatch.setattr(doctor, "_remove_end", lambda run: None)
    monkeypatch.setattr(doctor, "_read_adapter", lambda run: next(weights))
    findings = list(doctor.train_and_resume())
    assert [f.status for f in findings] == ["ok", "fail"]
    assert "other weights" in findings[1].text


@pytest.mark.slow
def test_train_save_and_resume_work_here():
    assert [(f.name, f.status) for f in doctor.train_and_resume()] == [
        ("train", "ok"),
        ("resume", "ok"),
    ]
