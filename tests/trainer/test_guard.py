"""Steps that are not finite: the run stops and names the rows, or skips the step without a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.batch_layout import BatchLayout
from ftcli.core.errors import FAILED, UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume, train
from ftcli.models.causal_lm import CausalLMSource as Source
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.trainer.checkpoint import Checkpoints
from ftcli.trainer.meter import Meter

SMALL = (
    "data.limit=40", "data.validation=null", "data.test=null", "eval=none", "trainer.epochs=null",
    "trainer.batch_size=2", "trainer.log_every=1", "trainer.save_every=1", "trainer.keep_last=20",
    "trainer.precision=fp32", "model.dtype=float32", "trainer.max_steps=4", "scheduler=constant",
)  # fmt: skip
KINDS = {
    "plain": ("method.r=4", "method.lora_dropout=0"),
    "accumulation": (
        "method.r=4", "method.lora_dropout=0", "trainer.gradient_accumulation_steps=2",
    ),
    "unclipped": ("method.r=4", "method.lora_dropout=0", "trainer.max_grad_norm=null"),
    "blocks": (
        "model.quantization=none", "method=lora", "method.r=4", "trainable=lisa",
        "trainable.interval=2", "trainable.gamma=1",
    ),
    "search": ("model.quantization=none", "method=lora", "method.r=4", "optimizer=mezo"),
    "search_in_place": (
        "model.quantization=none", "method=lora", "method.r=4", "optimizer=mezo", "optimizer.copies=0",
    ),
}  # fmt: skip
FAST = {"plain", "search"}
CLOCK = {"time", "tok_s", "mem_gb"}


def only(tmp_path) -> Path:
    """The folder of the only run."""
    return next(p for p in (tmp_path / "runs/qlora_mini").iterdir() if not p.is_symlink())


def job(tmp_path, *overrides):
    composed = compose("qlora_mini", [*SMALL, f"run.dir={tmp_path}/runs", *overrides])
    validate_and_convert(composed)
    return composed


def poison(monkeypatch, choose, how="loss"):
    """Let training batches for which `choose(rows)` holds have a loss, or a gradient, of nan."""
    original = NextTokenPrediction.__call__

    def call(self, model, batch):
        losses = original(self, model, batch)
        if (
            model.training or not torch.is_grad_enabled()
        ):  # gradient-free steps compute losses in evaluation mode
            if choose(set(batch["indices"])):
                if how == "loss":
                    losses.values = losses.values * float("nan")
                else:
                    losses.values.register_hook(lambda gradient: gradient * float("nan"))
        return losses

    monkeypatch.setattr(NextTokenPrediction, "__call__", call)
    monkeypatch.setattr(
        Source, "select_batch_layout", lambda *_: BatchLayout("flat")
    )  # its losses would be nan too


def order(tmp_path, *overrides):
    """The batches of the first epoch."""
    from ftcli.run.build import build_run

    run = build_run(job(tmp_path, *overrides).config)
    run.load_model()
    return run.build_loader().list_batch_indices(0)


def without(monkeypatch, dropped):
    """Remove batches from the order."""
    from ftcli.data.loader import Loader

    original = Loader.list_batch_indices
    monkeypatch.setattr(
        Loader,
        "list_batch_indices",
        lambda self, epoch: [b for b in original(self, epoch) if b not in dropped],
    )


def state(run: Path):
    """Everything that the last checkpoint holds except times."""
    folder = Checkpoints(run / "checkpoints").find("last")
    kept = {name: torch.load(folder / f"{name}.pt") for name in ("optimizer", "participants")}
    for clock in ("guard", "progress"):
        kept["participants"].pop(clock, None)
    return load_file(folder / "adapter.safetensors"), kept


def figures(run: Path, *more):
    dropped = CLOCK | {"epoch", "batch", *more}
    return [{k: v for k, v in row.items() if k not in dropped} for row in RunDir(run).metrics()]


def assert_same(run: Path, expected: Path, *more):
    from ftcli.trainer.rollback import equal_states

    assert equal_states(state(run), state(expected))
    assert figures(run, *more) == figures(expected, *more)


@pytest.mark.parametrize("how", [pytest.param("loss", marks=pytest.mark.slow), "gradient"])
def test_stopping_names_the_step_and_the_rows_and_keeps_the_batch(how, tmp_path, monkeypatch):
    bad = order(tmp_path)[2]
    poison(monkeypatch, lambda rows: rows == set(bad), how)
    with pytest.raises(UserError) as caught:
        train(job(tmp_path, *KINDS["plain"]))
    run = only(tmp_path)
    message = str(caught.value)
    named = "the loss was nan" if how == "loss" else "the gradient norm was nan"
    assert f"{named} at step 3" in message and caught.value.code == FAILED
    assert "go on from step-000002 without them: " in message
    assert f"ftcli resume {run} trainer.on_nonfinite=skip" in message
    folder = run / "nonfinite/step-000003"
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == bad
    assert all(row["origin"] in message and len(row["text"]) > 20 for row in rows)
    tensors = load_file(folder / "rank-0-batch-0.safetensors")
    assert tensors["input_ids"].numel() == int(tensors["lengths"].sum())
    assert json.loads((folder / "figures.json").read_text())["value"] == "nan"
    assert [p.name for p in Checkpoints(run / "checkpoints").list_complete()] == [
        "step-000001", "step-000002",
    ]  # fmt: skip
    # the fix in the message works
    assert resume(run, overrides=["trainer.on_nonfinite=skip"])["step"] == 4


def test_figures_read_late_still_name_the_first_step_and_stop_the_save(tmp_path, monkeypatch):
    """On an accelerator nothing is read between two logs, but a save checks first."""
    record_step = Meter.record_step

    def late(self, *args):
        self.check_pending = lambda: None
        record_step(self, *args)
        del self.check_pending

    monkeypatch.setattr(Meter, "record_step", late)
    bad = order(tmp_path)[1]
    poison(monkeypatch, lambda rows: rows == set(bad))
    with pytest.raises(UserError, match="the loss was nan at step 2") as caught:
        train(job(tmp_path, *KINDS["plain"], "trainer.log_every=10", "trainer.save_every=3"))
    assert "no checkpoint from before" in str(caught.value)
    run = only(tmp_path)
    assert not Checkpoints(run / "checkpoints").list_complete()
    lines = (run / "nonfinite/step-000002/rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == bad


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """Weights may overflow in a step whose loss and gradient are finite."""
    from ftcli.trainer.context import TrainingContext

    clip_and_step = TrainingContext.clip_and_step

    def overflows(self, lr, max_norm):
        norm = clip_and_step(self, lr, max_norm)
        if self.state.step == 1:
            self.parameters[0].data.view(-1)[0] = torch.inf
        return norm

    monkeypatch.setattr(TrainingContext, "clip_and_step", overflows)
    with pytest.raises(UserError, match="a trained weight was not finite after step 2"):
        train(job(tmp_path, *KINDS["plain"]))
    run = only(tmp_path)
    assert [p.name for p in Checkpoints(run / "checkpoints").list_complete()] == ["step-000001"]


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in FAST else [pytest.mark.slow]) for k in KINDS]
)
def test_a_skipped_step_is_as_if_its_batch_had_not_been(kind, tmp_path, monkeypatch):
    """Weights, optimizer, callbacks and figures, to the bit."""
    words = (*KINDS[kind], "trainer.on_nonfinite=skip")
    width = 2 if kind == "accumulation" else 1
    plan = order(tmp_path, *words)
    bad = plan[2 : 2 + width]
    with monkeypatch.context() as patch:
        poison(patch, lambda rows: rows == set(bad[-1]), "gradient" if kind == "blocks" else "loss")
        skipped = Path(train(job(tmp_path, *words))["run"])
    with monkeypatch.context() as patch:
        without(patch, bad)
        plain = Path(train(job(tmp_path, *words))["run"])
    assert_same(skipped, plain, "skipped")
    counts = [[row["skipped"] for row in RunDir(run).metrics()] for run in (skipped, plain)]
    assert counts == [[0, 1, 1, 1] if width == 2 else [0, 0, 1, 1], [0, 0, 0, 0]]
    assert (skipped / "nonfinite").is_dir() and not (plain / "nonfinite").exists()
    moved = load_file(
        Checkpoints(plain / "checkpoints").find("step-000001") / "adapter.safetensors"
    )
    assert any(not torch.equal(moved[k], v) for k, v in state(plain)[0].items()), "nothing moved"


def cut(run: Path, step: int, to: Path) -> Path:
    """Copy a run as it would be on disk after a crash behind the checkpoint of a step."""
    shutil.copytree(run, to, symlinks=True)
    for folder in Checkpoints(to / "checkpoints").list_complete():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    shutil.rmtree(to / "adapter")
    (to / "result.json").unlink()
    return to


def test_the_count_of_skipped_steps_survives_a_resume(tmp_path, monkeypatch):
    words = (*KINDS["plain"], "trainer.on_nonfinite=skip")
    plan = order(tmp_path, *words)
    poison(monkeypatch, lambda rows: rows in (set(plan[1]), set(plan[3])))
    whole = Path(train(job(tmp_path, *words))["run"])
    assert [row["skipped"] for row in RunDir(whole).metrics()] == [0, 1, 2, 2]
    resumed = cut(whole, 2, tmp_path / "cut")
    resume(resumed)
    assert_same(whole, resumed)
    assert Checkpoints(resumed / "checkpoints").find("last").name == "step-000004"


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path, monkeypatch):
    plan = order(tmp_path)
    poison(monkeypatch, lambda rows: rows != set(plan[0]))
    words = ("trainer.on_nonfinite=skip", "trainer.max_skipped=3")
    with pytest.raises(UserError, match="4 steps in a row were skipped.* at step 2"):
        train(job(tmp_path, *KINDS["plain"], *words))
    run = only(tmp_path)
    assert len(list((run / "nonfinite").iterdir())) == 4
    assert [p.name for p in Checkpoints(run / "checkpoints").list_complete()] == ["step-000001"]


ONE_RANK = """
import os, sys
import torch
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.jobs import launch

original, bad = NextTokenPrediction.__call__, set(map(int, sys.argv[2].split(",")))

def call(self, model, batch):
    losses = original(self, model, batch)
    if os.environ["RANK"] == "1" and model.training and set(batch["indices"]) == bad:
        losses.values.register_hook(lambda gradient: gradient * float("nan"))
    return losses

NextTokenPrediction.__call__ = call
launch._run_rank(sys.argv[1], "")
"""


@pytest.mark.slow
def test_ranks_agree_to_skip_what_only_one_of_them_sees(tmp_path):
    import os
    import subprocess
    import sys

    from ftcli.run.build import create_directory

    words = (*KINDS["plain"], "trainer.on_nonfinite=skip", "model.quantization=none", "method=lora")
    plan = order(tmp_path, *words)
    bad = plan[3]  # the second batch of the second rank
    run = create_directory(job(tmp_path, *words)).path
    (tmp_path / "ranks.py").write_text(ONE_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "ranks.py"), str(run), ",".join(map(str, bad))]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    assert [row["skipped"] for row in RunDir(run).metrics()] == [0, 1, 1, 1]
    (folder,) = (run / "nonfinite").iterdir()
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines if line["rank"] == 1] == bad
    assert {line["rank"] for line in lines} == {0, 1}
    assert RunDir(run).result()["step"] == 4
