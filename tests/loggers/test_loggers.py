"""Trackers get the run's figures; a missing one says how to install it."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from ftcli.errors import UserError
from ftcli.loggers.base import curves, flat, run_name
from ftcli.loggers.mlflow import Mlflow
from ftcli.loggers.tensorboard import Tensorboard
from ftcli.loggers.trackio import Trackio
from ftcli.loggers.wandb import Wandb

LOG = {"step": 5, "loss": 2.5, "lr": 1e-3, "time": 1.0, "row": 40}
SCORES = {"step": 10, "eval.bleu": 40.5}
STATE = SimpleNamespace(step=10)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    folder = tmp_path / "demo" / "2026-01-02_03-04-05-abcd"
    folder.mkdir(parents=True)
    return SimpleNamespace(
        config={"seed": 1, "optimizer": {"lr": 1e-3}}, dir=SimpleNamespace(path=folder)
    )


def watch(logger, run):
    logger.setup(run)
    logger.on_log(STATE, LOG)
    logger.on_evaluate(STATE, SCORES)
    logger.on_train_end(STATE)
    logger.on_train_end(STATE)


@pytest.mark.parametrize(
    ("logger", "module", "extra"),
    [
        (Tensorboard(), "torch.utils.tensorboard.writer", "tensorboard"),
        (Wandb(), "wandb", "wandb"),
        (Mlflow(), "mlflow", "mlflow"),
        (Trackio(), "trackio", "trackio"),
    ],
)
def test_a_missing_tracker_names_its_extra(logger, module, extra, run, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        logger.setup(run)
    assert caught.value.fix == f"pip install 'ftcli[{extra}]'"


def test_figures_become_curves_and_bookkeeping_does_not():
    assert curves(LOG) == {"train/loss": 2.5, "train/lr": 1e-3}
    assert curves(SCORES) == {"eval/bleu": 40.5}


def test_names_and_settings_come_from_the_run(run):
    assert run_name(run) == "demo/2026-01-02_03-04-05-abcd"
    assert flat(run.config) == [("seed", 1), ("optimizer.lr", 1e-3)]


def test_other_ranks_write_nothing(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    watch(Tensorboard(), run)
    assert not (run.dir.path / "tensorboard").exists()


def test_tensorboard_files_hold_the_curves(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch(Tensorboard(), run)
    events = EventAccumulator(str(run.dir.path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(5, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("eval/bleu")] == [(10, 40.5)]


def test_a_real_run_appears_in_tensorboard(train_tiny):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train_tiny("run.name=board", "logger=tensorboard", "eval=loss")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, key in (
        ("train/loss", "loss"),
        ("train/grad_norm", "grad_norm"),
        ("eval/loss", "eval.loss"),
    ):
        wanted = [(row["step"], row[key]) for row in rows if key in row]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted] != []
        assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=1e-6)
    assert "config/text_summary" in events.Tags()["tensors"]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is an extra")
def test_mlflow_holds_the_curves_and_the_config(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    store = (tmp_path / "store").as_uri()
    watch(Mlflow(experiment="demo", tracking_uri=store), run)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])[0]
    assert found.data.params["optimizer.lr"] == "0.001"
    assert found.data.metrics == {"train/loss": 2.5, "train/lr": 1e-3, "eval/bleu": 40.5}
    assert found.info.status == "FINISHED"
