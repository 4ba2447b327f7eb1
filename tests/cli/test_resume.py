"""`ftcli resume RUN key=value`: a run goes on for more steps, and takes no other steps than it would have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from ftcli.models import hub
from ftcli.sweeps.trial import read_figures

TINY = (
    "eval=loss", "data.limit=64", "data.validation=0.1", "method.r=2", "method.lora_dropout=0.1",
    "model.dtype=float32", "trainer.precision=fp32", "trainer.batch_size=4", "trainer.log_every=2",
    "trainer.eval_every=null", "optimizer.lr=3e-3",
)  # fmt: skip
CLOCK = ("time", "tok_s", "mem_gb")


@pytest.fixture
def trained(ftcli, work):
    def run(name: str, *words: str) -> Path:
        ended = ftcli("train", "qlora_mini", *TINY, f"run.name={name}", *words)
        assert ended.status == 0, ended.err
        return (work / "runs" / name / "latest").resolve()

    return run


def weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "checkpoints/last/adapter.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def logged(run: Path) -> list[dict]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def content(run: Path) -> dict[str, bytes]:
    files = (f for f in run.rglob("*") if f.is_file() and not f.is_symlink() and f.name != ".busy")
    return {str(f.relative_to(run)): f.read_bytes() for f in files}


def test_a_finished_run_goes_on_to_the_bits_of_a_longer_one(ftcli, trained):
    """With a constant schedule: weights, every line of metrics.jsonl and the scores."""
    short = trained("short", "scheduler=constant", "trainer.max_steps=6")
    long = trained("long", "scheduler=constant", "trainer.max_steps=10")
    assert weights(short) != weights(long)
    before = json.loads((short / "result.json").read_text())
    ended = ftcli("resume", str(short), "trainer.max_steps=10", "trainer.save_every=4")
    assert ended.status == 0, ended.err
    assert "schedule" not in ended.err
    assert weights(short) == weights(long)
    assert logged(short) == logged(long)
    after, whole = (json.loads((run / "result.json").read_text()) for run in (short, long))
    assert after["metrics"] == whole["metrics"] and after["step"] == after["max_steps"] == 10
    assert read_figures(before)["eval.loss"] != read_figures(after)["eval.loss"]
    kept = json.loads((short / "ended" / "step-000006" / "result.json").read_text())
    assert kept == before

    config = yaml.safe_load((short / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 10
    sources = yaml.safe_load((short / "sources.yaml").read_text())
    assert sources["trainer.max_steps"] == "ftcli resume"
    events = [json.loads(line) for line in (short / "events.jsonl").read_text().splitlines()]
    resumed = next(event for event in events if event["event"] == "resume")
    assert resumed["changed"]["trainer.max_steps"] == [6, 10]
    assert ftcli("show", str(short / "config.yaml")).status == 0


def test_the_schedule_of_the_new_length_is_said_where_it_differs(ftcli, trained):
    run = trained("linear", "scheduler=linear", "scheduler.warmup_ratio=0", "trainer.max_steps=4")
    ended = ftcli("resume", str(run), "trainer.max_steps=8")
    assert ended.status == 0
    assert (
        "the schedule is that of 8 steps from here on: step 4 was taken at 0.25 times optimizer.lr, "
        "step 5 is taken at 0.5 times" in ended.err
    )
    rates = {row["step"]: row["lr"] for row in logged(run) if "lr" in row}
    assert rates[4] == pytest.approx(0.25 * 3e-3) and rates[6] == pytest.approx(3 / 8 * 3e-3)


@pytest.fixture
def finished(trained):
    return trained("done", "scheduler=constant", "trainer.max_steps=2")


REFUSED = (
    (("optimizer.lr=1e-4", "trainer.max_steps=4"),
     "optimizer.lr was 0.003 when the checkpoint was written, now it is 0.0001: later steps",
     "leave out optimizer.lr=1e-4, or: ftcli resume RUN optimizer.lr=1e-4 trainer.max_steps=4 "
     "--allow optimizer.lr"),
    (("trainer.batch_size=2", "trainer.max_steps=4"), "trainer.batch_size was 4", "--allow trainer.batch_size"),
    (("data=prompt", "trainer.max_steps=4"), "data", ""),
    (("trainer.max_stepz=4",), "Did you mean trainer.max_steps?", "trainer.max_steps=4"),
    (("trainer.max_steps=2",), "is at step 2, and trainer.max_steps=2 ends it at step 2",
     "ftcli resume RUN trainer.max_steps=4"),
    (("logger=tensorboard",), "is at step 2", "ftcli resume RUN trainer.max_steps=4"),
    (("trainer.epochs=3",), "trainer.max_steps=2 ends it", "ftcli resume RUN trainer.max_steps=4"),
    ((), "is finished, at step 2", "ftcli resume RUN trainer.max_steps=4"),
)  # fmt: skip


def test_what_may_not_change_is_refused_by_name_and_the_run_stays_as_it_was(ftcli, finished):
    before = content(finished)
    for words, what, fix in REFUSED:
        ended = ftcli("resume", str(finished), *words)
        assert ended.status == 2, words
        assert what in ended.err and fix.replace("RUN", str(finished)) in ended.err, ended.err
        assert content(finished) == before, words


def test_a_run_whose_base_is_gone_stays_as_it_was(ftcli, trained, work):
    """The model refuses after the configuration was accepted and written: the record is put back."""
    shutil.copytree(hub.ASSETS / "models" / "llama_mini", work / "base")
    run = trained("moved", "model.path=base", "trainer.max_steps=1", "eval=none")
    (work / "base" / "model.safetensors").unlink()
    before = content(run)
    ended = ftcli("resume", str(run), "trainer.max_steps=4")
    assert ended.status == 2 and "base" in ended.err
    after = content(run)
    for name in ("events.jsonl", "train.log"):  # which say that it was tried
        assert before.pop(name) != after.pop(name)
    assert after == before


def test_the_other_ways_to_go_on(ftcli, finished, monkeypatch):
    """More passes instead of more steps, fewer checkpoints, another evaluation."""
    ended = ftcli(
        "resume", str(finished), "trainer.max_steps=null", "trainer.epochs=0.4", "trainer.keep_last=1",
        "trainer.log_every=1", "eval=none",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    result = json.loads((finished / "result.json").read_text())
    assert result["step"] == result["max_steps"] > 2 and result["metrics"] == {}
    steps = [row["step"] for row in logged(finished) if "loss" in row]
    assert steps == list(range(2, result["step"] + 1))
    kept = [path.name for path in (finished / "checkpoints").glob("step-*")]
    assert len(kept) == 1 or (finished / "checkpoints" / "best").exists()
