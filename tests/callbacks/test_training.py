"""Callbacks of the group in real runs: early ends, averaged artefacts, exact resume, overrides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcli.config import load
from ftcli.config.scores import list_scores
from ftcli.core.errors import UserError
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume
from ftcli.trainer.checkpoint_io import load_pt

CHOSEN = (
    "method=lora", "method.r=4", "model.quantization=none", "eval=loss", "eval.loss.limit=8",
    "callback=[early_stopping,ema,neftune,lora_plus]", "callback.early_stopping.patience=2",
    "callback.early_stopping.min_delta=10", "trainer.max_steps=4", "trainer.eval_every=1",
    "trainer.save_every=1", "trainer.keep_last=9", "scheduler=constant",
)  # fmt: skip
CLOCK = {"time", "tok_s", "mem_gb"}


@pytest.fixture(scope="module")
def ended(train_tiny) -> Path:
    """A run of 4 steps that no evaluation finds better by 10 nats: it ends at step 2."""
    return train_tiny("run.name=ended", *CHOSEN)


def adapter(run: Path, step: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / step / "adapter.safetensors")


def test_the_run_ends_early_as_at_its_last_step(ended):
    run = RunDir(ended)
    result = run.result()
    assert (result["status"], result["step"]) == ("finished", 2)
    assert "loss has not improved on" in result["ended_early"] and "eval.loss" in result["metrics"]
    assert (ended / "adapter").is_dir() and (
        ended / "checkpoints/last"
    ).resolve().name == "step-000002"
    assert [row["step"] for row in run.metrics() if "loss" in row] == [1, 2]


def test_the_scores_known_beforehand_are_those_of_the_run(ended):
    (scores,) = list_scores(load(ended / "config.yaml").config)
    measured = {name for name in RunDir(ended).result()["metrics"] if name.startswith("eval.")}
    assert measured == {f"eval.{name}" for name in scores.names if "*" not in name}


def test_what_is_saved_is_the_average_and_the_weights_in_training_are_beside_it(ended):
    state = load_pt(ended / "checkpoints/last/participants.pt")["callback.ema"]
    saved = adapter(ended)
    assert state["steps"] == 2 and len(state["average"]) == len(saved)
    for kept, equal in (("average", True), ("training", False)):
        sums = sorted(float(t.double().sum()) for t in state[kept])
        same = sums == sorted(float(t.double().sum()) for t in saved.values())
        assert same is equal, kept
    artefact = load_file(ended / "adapter/adapter_model.safetensors")
    assert sorted(float(t.double().sum()) for t in artefact.values()) == sorted(
        float(t.double().sum()) for t in saved.values()
    )


def copy(run: Path, target: Path) -> Path:
    shutil.copytree(run, target, symlinks=True)
    return target


def test_a_killed_run_resumes_to_the_bit(ended, tmp_path):
    killed = copy(ended, tmp_path / "killed")
    (killed / "result.json").unlink()
    shutil.rmtree(killed / "checkpoints/step-000002")
    assert resume(killed)["ended_early"] == RunDir(ended).result()["ended_early"]
    first, second = adapter(ended), adapter(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [
        [{k: v for k, v in row.items() if k not in CLOCK} for row in RunDir(path).metrics()]
        for path in (ended, killed)
    ]
    assert rows[0] == rows[1]


def test_a_run_killed_after_its_early_end_takes_no_further_step(ended, tmp_path):
    killed = copy(ended, tmp_path / "killed")
    (killed / "result.json").unlink()
    assert resume(killed)["step"] == 2


def test_more_patience_or_none_at_all_lets_it_go_on(ended, tmp_path):
    with pytest.raises(UserError, match="is finished, at step 2: loss has not") as caught:
        resume(ended)
    assert "callback.early_stopping.patience=N" in str(caught.value)
    longer = copy(ended, tmp_path / "longer")
    assert resume(longer, overrides=["callback.early_stopping.patience=3"])["step"] == 3
    assert load(longer / "config.yaml").get("callback.early_stopping.patience") == 3
    assert "ended_early" not in resume(longer, overrides=["~callback.early_stopping"])
    assert RunDir(longer).result()["step"] == 4


def test_what_changes_a_step_is_refused_by_name(ended):
    for override in ("callback.ema.decay=0.5", "callback.neftune.alpha=1", "trainer.batch_size=4"):
        with pytest.raises(UserError, match="later steps would not be those of this run") as caught:
            resume(ended, overrides=["trainer.max_steps=9", override])
        assert override.partition("=")[0] in str(caught.value)
