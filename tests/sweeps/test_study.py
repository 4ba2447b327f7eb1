"""Optuna's study beside the trials: what it draws, prunes, and keeps through a crash."""

from __future__ import annotations

import math

import pytest

optuna = pytest.importorskip("optuna")

from ftcli.core.errors import FAILED, OK, UserError  # noqa: E402
from ftcli.sweeps import study as studies  # noqa: E402
from ftcli.sweeps.plan import Plan  # noqa: E402
from ftcli.sweeps.space import Choices, Interval, parse_space  # noqa: E402
from ftcli.sweeps.study import Study, build_distribution, count_startup_trials  # noqa: E402
from ftcli.sweeps.sweep import resume_sweep, start_sweep  # noqa: E402

SEARCH = {"optuna": True, "trials": 8}
LR = "optimizer.lr=interval(1e-5,1e-1)"


def distance(config):
    """Best at lr=1e-3, and known from the first step on."""
    off = abs(math.log10(config["optimizer"]["lr"]) + 3)
    return [3 + off, 2 + off]


def reopened(folder):
    plan = Plan.read(folder)
    return Study(plan, parse_space(plan.overrides, []), folder)


def test_axes_become_distributions():
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    assert build_distribution(Interval("a", "", 1e-4, 1e-2, True, False)) == FloatDistribution(
        1e-4, 1e-2, log=True
    )
    assert build_distribution(Interval("a", "", 2, 64, False, True)) == IntDistribution(2, 64)
    assert build_distribution(Choices("a", "", ("1", "4", "7"), 3)) == IntDistribution(1, 7, step=3)
    assert build_distribution(Choices("a", "", ("0.0", "0.5"), 0.5)) == FloatDistribution(
        0, 0.5, step=0.5
    )
    assert build_distribution(Choices("a", "", ("8", "4"))) == CategoricalDistribution(("8", "4"))


def test_a_search_keeps_every_trial_in_its_study(tmp_path, plan, answers):
    used = answers(distance)
    done = start_sweep(plan(LR, "method.r=2,4", **SEARCH), tmp_path)
    assert done.status == OK and len(done.trials) == 8 == len(used.started)
    kept = reopened(done.folder)
    assert [(t.status, t.point) for t in kept.trials] == [(t.status, t.point) for t in done.trials]
    assert kept.study.best_trial.number == done.best.number
    drawn = [float(t.point["optimizer.lr"]) for t in done.trials]
    assert len(set(drawn)) == 8 and min(drawn) < 1e-3 < max(drawn)
    importance = kept.importance()
    assert importance.shares["optimizer.lr"] > importance.shares["method.r"]


def test_the_estimator_comes_nearer_than_its_random_start(tmp_path, plan, answers):
    answers(distance)
    done = start_sweep(plan(LR, optuna=True, trials=24), tmp_path)
    scores = [trial.score("eval.loss") for trial in done.trials]
    random = count_startup_trials(Plan.read(done.folder))
    assert random == 8
    assert sum(scores[-8:]) / 8 < sum(scores[:random]) / random


def test_hopeless_trials_are_stopped_on_their_way(tmp_path, plan, answers):
    def late(config):
        off = abs(math.log10(config["optimizer"]["lr"]) + 3)
        return [3 + off - step / 10 for step in range(6)]

    answers(late)
    job = plan(LR, "trainer.max_steps=6", optuna=True, trials=12, pruner="median")
    done = start_sweep(job, tmp_path)
    pruned = [trial for trial in done.trials if trial.status == "pruned"]
    assert pruned and done.status == OK
    assert all(trial.step() < 6 and trial.result["status"] == "stopped by STOP" for trial in pruned)
    kept = reopened(done.folder).study
    assert [t.number for t in kept.trials if t.state.name == "PRUNED"] == [t.number for t in pruned]
    assert done.best.status == "finished"


def test_pruning_wants_scores_on_the_way(tmp_path, plan, answers):
    answers(distance)
    with pytest.raises(UserError, match="scores on the way") as caught:
        start_sweep(plan(LR, "trainer.eval_every=null", pruner="median", **SEARCH), tmp_path)
    assert "trainer.eval_every=" in caught.value.fix


def test_hyperband_takes_its_resources_from_the_job(tmp_path, plan, answers):
    answers(distance)
    job = plan(LR, "trainer.max_steps=9", pruner="hyperband", **SEARCH)
    done = start_sweep(job, tmp_path)
    assert (Plan.read(done.folder).every, Plan.read(done.folder).steps) == (1, 9)
    assert isinstance(reopened(done.folder).study.pruner, optuna.pruners.HyperbandPruner)


def test_failed_trials_are_told_and_the_search_goes_on(tmp_path, plan, answers):
    def fragile(config):
        return "too large" if config["optimizer"]["lr"] > 1e-3 else distance(config)

    answers(fragile)
    done = start_sweep(plan(LR, **SEARCH), tmp_path)
    states = [t.state.name for t in reopened(done.folder).study.trials]
    assert done.status == FAILED and {"FAIL", "COMPLETE"} == set(states) and len(states) == 8
    again = reopened(done.folder)
    assert {t.error for t in again.trials if t.status == "failed"} == {"too large"}


def test_what_was_under_way_goes_on_and_what_had_finished_is_told(tmp_path, plan, answers):
    """The process died with one trial under way, and one finished that the study never heard of."""
    answers(distance)
    folder = start_sweep(plan(LR, optuna=True, trials=3), tmp_path).folder
    died = reopened(folder)
    died.planned = 5
    unheard, under_way = died.next_trial(), died.next_trial()
    (unheard.folder / "result.json").write_text(
        '{"status": "finished", "metrics": {"eval.loss": 1.25}}'
    )
    (unheard.folder / "report.md").touch()
    used = answers(distance)
    done = resume_sweep(folder, trials=6)
    assert [t.status for t in done.trials] == ["finished"] * 6
    assert used.started == [under_way.folder.name, done.trials[5].folder.name]
    assert done.best.number == unheard.number == 3
    states = {t.state.name for t in reopened(folder).study.trials}
    assert states == {"COMPLETE"}


def test_a_resumed_search_draws_new_values(tmp_path, plan, answers):
    answers(distance)
    folder = start_sweep(plan(LR, optuna=True, trials=3), tmp_path).folder
    done = resume_sweep(folder, trials=6)
    assert len({t.point["optimizer.lr"] for t in done.trials}) == 6


def test_values_tried_already_are_not_trained_again(tmp_path, plan, answers):
    used = answers(distance)
    done = start_sweep(plan("method.r=2,4", optuna=True, trials=6), tmp_path)
    assert len(done.trials) == 6 and len(used.started) <= 4  # two at a time may be twins
    assert len(reopened(done.folder).trials) == 6
    assert all(t.status == "finished" for t in reopened(done.folder).trials)


def test_a_missing_optuna_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError) as caught:
        studies.require_optuna()
    assert caught.value.fix == "pip install 'ftcli[sweep]'"
