"""Two processes train what one process trains with twice the accumulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.jobs.launch import LaunchTopology, launch
from ftcli.jobs.train import train

JOB = [
    "data.limit=40", "trainer.epochs=null", "trainer.max_steps=3", "trainer.batch_size=2",
    "trainer.save_every=null", "trainer.eval_every=2", "~eval.generation", "method.r=4", "model.quantization=none",
    "method=lora", "trainer.precision=fp32", "model.dtype=float32",
]  # fmt: skip


def job(tmp_path, *overrides):
    composed = compose("qlora_mini", [*JOB, f"run.dir={tmp_path}", *overrides])
    validate_and_convert(composed)
    return composed


def weights(result):
    return load_file(Path(result["run"]) / "checkpoints/last/adapter.safetensors")


def test_two_ranks_equal_accumulation_over_two(tmp_path):
    apart = launch(job(tmp_path), LaunchTopology(2))
    alone = train(job(tmp_path, "trainer.gradient_accumulation_steps=2"))
    assert apart["step"] == alone["step"] == 3
    a, b = weights(apart), weights(alone)
    assert max((a[name] - b[name]).abs().max().item() for name in b) < 1e-5
    assert apart["metrics"]["eval.loss"] == pytest.approx(alone["metrics"]["eval.loss"], abs=1e-5)


def logged(result):
    """Logged figures of objective and penalties of each step."""
    lines = (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    return [
        {k: v for k, v in row.items() if k.startswith(("rewards/", "penalty."))} for row in rows
    ]


@pytest.mark.slow
def test_figures_are_those_of_all_ranks(tmp_path):
    words = ("trainer.log_every=1", "trainer.eval_every=null", "penalty=activation_density",
             "data=e2e_pairs", "data.pairs=true", "objective=dpo", "optimizer.lr=1e-2")  # fmt: skip
    apart = logged(launch(job(tmp_path, *words), LaunchTopology(2)))
    alone = logged(train(job(tmp_path, *words, "trainer.gradient_accumulation_steps=2")))
    assert len(apart) == 3 and len(apart[-1]) >= 3 and apart[-1]["rewards/margin"] != 0
    for ours, theirs in zip(apart, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_a_failing_rank_ends_in_one_message(tmp_path):
    with pytest.raises(UserError, match="batches are not enough for 2 processes"):
        launch(job(tmp_path, "trainer.batch_size=64"), LaunchTopology(2))
    assert not list(tmp_path.glob("*/*/config.yaml"))


def test_ranks_agree_to_stop(tmp_path):
    """One rank sees the file STOP first; all of them save and end together."""
    import threading
    import time

    def stop():
        while not list(tmp_path.glob("*/*/metrics.jsonl")):
            time.sleep(0.05)
        (next(tmp_path.glob("*/*/metrics.jsonl")).parent / "STOP").touch()

    threading.Thread(target=stop, daemon=True).start()
    result = launch(
        job(tmp_path, "trainer.max_steps=400", "trainer.eval_every=null"), LaunchTopology(2)
    )
    assert result["status"] == "stopped by STOP"
    assert (Path(result["run"]) / "checkpoints" / f"step-{result['step']:06d}" / "DONE").exists()
