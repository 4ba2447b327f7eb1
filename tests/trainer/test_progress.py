"""The progress display: a line a log in a file, a bar on a terminal, nothing under --quiet."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from ftcli.core import console as printing
from ftcli.trainer.progress import Progress, format_duration

LOG = {"step": 20, "loss": 2.5, "lr": 2e-3, "tok_s": 5321.4, "mem_gb": 1.234, "time": 3.0}
STATE = SimpleNamespace(step=20, max_steps=100)


@pytest.fixture(autouse=True)
def first_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("FTCLI_QUIET", raising=False)


def test_a_log_is_one_plain_line_outside_a_terminal(capsys):
    Progress(live=False).on_log(STATE, LOG)
    line = "step 20/100  loss 2.5000 · lr 2.00e-03 · 5,321 tok/s · 1.23 GB\n"
    assert capsys.readouterr().out == line


def test_each_line_shows_its_own_loss_and_no_figure_that_was_not_measured(capsys):
    shown = Progress(live=False)
    shown.on_log(STATE, {"step": 1, "loss": 4.0})
    shown.on_log(STATE, {"step": 2, "loss": 2.0})
    shown.on_log(STATE, {"step": 3, "lr": 1e-4})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "step 1/100  loss 4.0000",
        "step 2/100  loss 2.0000",
        "step 3/100  lr 1.00e-04",
    ]


def test_the_time_left_counts_from_the_step_of_a_resume(capsys):
    shown = Progress(live=False)
    shown.before_step(SimpleNamespace(step=10))
    shown.began = (shown.began[0] - 20, shown.began[1])  # twenty seconds for ten steps
    shown.on_log(STATE, LOG)
    assert "2m40s left" in capsys.readouterr().out


def test_the_age_of_the_last_finished_checkpoint_is_shown(tmp_path, capsys):
    for name in ("step-000010", "step-000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    shown = Progress(live=False)
    shown.checkpoints = tmp_path / "checkpoints"
    shown.on_log(STATE, LOG)
    assert "saved" not in capsys.readouterr().out
    (tmp_path / "checkpoints" / "step-000010" / "DONE").touch()
    shown.on_log(STATE, LOG)
    assert "saved 0s ago" in capsys.readouterr().out


def test_scores_are_shown_with_their_step(capsys):
    Progress(live=False).on_evaluate(STATE, {"step": 20, "eval.loss": 1.5, "eval.bleu": 40.123456})
    assert capsys.readouterr().out == "eval at step 20  loss 1.5  bleu 40.12\n"


@pytest.mark.parametrize("variable", [("RANK", "1"), ("FTCLI_QUIET", "1")])
def test_other_ranks_and_quiet_runs_show_nothing(variable, monkeypatch, capsys):
    monkeypatch.setenv(*variable)
    shown = Progress(live=False)
    shown.on_log(STATE, LOG)
    shown.on_evaluate(STATE, {"eval.loss": 1.0})
    assert capsys.readouterr().out == ""


def test_on_a_terminal_there_is_a_bar_that_ends_with_training(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160)
    monkeypatch.setattr(printing, "console", lambda stderr=False: terminal)
    shown = Progress(live=True)
    shown.on_log(STATE, LOG)
    time.sleep(0.15)
    shown.on_train_end(STATE)
    assert "20/100" in screen.getvalue() and "5,321 tok/s" in screen.getvalue()
    assert shown.bar is None


def test_durations_read_well():
    assert [format_duration(s) for s in (9.9, 185, 7800)] == ["9s", "3m05s", "2h10m"]


def test_train_log_has_every_line_also_of_a_quiet_run(trained_run):
    text = (trained_run / "train.log").read_text()
    assert "eval at step 0" in text and "step 3/3" in text and "sample" in text
