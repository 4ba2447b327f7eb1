"""Trackers receive the run's figures; the message of a missing package says how to install it."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from ftcli.core.errors import UserError
from ftcli.loggers.base import flatten, run_name, select_curves
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
    assert select_curves(LOG) == {"train/loss": 2.5, "train/lr": 1e-3}
    assert select_curves(SCORES) == {"eval/bleu": 40.5}


def test_names_and_settings_come_from_the_run(run):
    assert run_name(run) == "demo/2026-01-02_03-04-05-abcd"
    assert flatten(run.config) == [("seed", 1), ("optimizer.lr", 1e-3)]


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
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in points] == [step for step, _ in wanted] != []
        assert [v for _, v in points] == pytest.approx([v for _, v in wanted], rel=1e-6)
    assert "config/text_summary" in events.Tags()["tensors"]


def needs(package: str) -> pytest.MarkDecorator:
    """Skip where an extra is not installed, and say which."""
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"pip install 'ftcli[{package}]'")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A working folder, no server in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return tmp_path


@needs("mlflow")
def test_mlflow_holds_the_curves_and_the_config_out_of_the_box(run, alone):
    from mlflow import MlflowClient

    run.config["method"] = {"rank_pattern": {r"^model\.layers\.\d+": 4}}
    watch(Mlflow(experiment="demo"), run)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    record = client.search_runs([experiment.experiment_id])[0]
    assert record.data.params["optimizer.lr"] == "0.001" and "4" in record.data.params.values()
    assert record.data.metrics == {"train/loss": 2.5, "train/lr": 1e-3, "eval/bleu": 40.5}
    assert record.info.status == "FINISHED"


@needs("mlflow")
def test_a_store_that_mlflow_refuses_names_one_that_it_takes(run, alone):
    with pytest.raises(UserError, match="maintenance mode") as caught:
        watch(Mlflow(tracking_uri="./mlruns"), run)
    assert caught.value.fix == "logger.mlflow.tracking_uri=sqlite:///mlflow.db"


@pytest.mark.slow
@needs("mlflow")
def test_a_real_run_appears_in_mlflow(train_tiny, alone):
    from mlflow import MlflowClient

    folder = train_tiny("run.name=flow", "logger=mlflow", "eval=loss")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("ftcli")
    assert experiment is not None
    record = client.search_runs([experiment.experiment_id])[0]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, key in (("train/loss", "loss"), ("eval/loss", "eval.loss")):
        wanted = [(row["step"], row[key]) for row in rows if key in row]
        history = client.get_metric_history(record.info.run_id, name)
        assert sorted((m.step, m.value) for m in history) == wanted != []
    assert record.data.params["trainer.max_steps"] == "3"


@pytest.mark.slow
@needs("wandb")
def test_a_real_run_is_kept_by_wandb_offline(train_tiny, alone):
    from wandb.proto.wandb_internal_pb2 import Record

    folder = train_tiny("run.name=wb", "logger=wandb", "logger.wandb.mode=offline", "eval=loss")
    seen = {}
    for data in leveldb_log(next(folder.glob("wandb/offline-run-*/*.wandb")).read_bytes()[7:]):
        record = Record()
        record.ParseFromString(data)
        step = {}
        for item in record.history.item:
            step[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        seen |= {(step.get("_step"), key): value for key, value in step.items()}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, key in (("train/loss", "loss"), ("eval/loss", "eval.loss")):
        wanted = {(row["step"], name): row[key] for row in rows if key in row}
        assert wanted and {place: seen.get(place) for place in wanted} == wanted


def leveldb_log(content: bytes):
    """Records of a log in LevelDB's format: blocks of 32 KiB, fragments of checksum, length, kind."""
    place, whole = 0, b""
    while place + 7 <= len(content):
        left = (1 << 15) - (place + 7) % (
            1 << 15
        )  # the header of 7 bytes counts in the first block
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


@pytest.mark.slow
@needs("trackio")
def test_a_real_run_is_kept_by_trackio(train_tiny, alone, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(alone / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    folder = train_tiny("run.name=tk", "logger=trackio", "eval=loss")
    name = SQLiteStorage.get_runs("ftcli")[-1]
    logs = SQLiteStorage.get_logs("ftcli", name)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for curve, key in (("train/loss", "loss"), ("eval/loss", "eval.loss")):
        wanted = [(row["step"], row[key]) for row in rows if key in row]
        assert sorted((log["step"], log[curve]) for log in logs if curve in log) == wanted != []
