"""A job is measured against a plain loop that trains the same rows to the same weights."""

from __future__ import annotations

import json

import pytest
import torch

from ftcli.cli.app import run as ftcli
from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.jobs import bench
from ftcli.jobs.plain_loop import PlainLoop
from ftcli.run.build import build_run

WORDS = (
    "model.dtype=float32", "trainer.precision=fp32", "data.limit=48", "trainer.batch_size=4",
    "data.validation=null", "data.test=null", "eval=none", "method.r=4",
)  # fmt: skip


@pytest.fixture
def overrides(tmp_path) -> list[str]:
    return [*WORDS, f"data.cache_dir={tmp_path}", f"run.dir={tmp_path / 'runs'}"]


def resolve(overrides: list[str], *more: str) -> dict:
    composed = compose("qlora_mini", [*overrides, *more])
    validate_and_convert(composed)
    return composed.config


def test_the_table_says_what_was_measured_and_nothing_is_kept(overrides, tmp_path, capsys):
    overrides += ["callback=early_stopping", "trainer.eval_every=1"]  # of no matter to the speed
    words = ["--against", "plain", "--steps", "5", "--rounds", "1", "--json"]
    assert ftcli(["bench", "qlora_mini", *overrides, *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 48 and result["rows_a_step"] == 4 and result["stored_as"] == "nf4"
    for loop in ("ftcli", "plain"):
        assert result[loop]["tok_s"] > 0 and result[loop]["first_step_s"] > 0
    ratio = result["ftcli"]["tok_s"] / result["plain"]["tok_s"]
    assert result["ratio"]["tok_s"] == pytest.approx(ratio)
    assert not (tmp_path / "runs").exists()


def test_both_loops_train_the_same_rows_to_the_same_weights(overrides, monkeypatch):
    """SGD without clipping, so that the adapters move by the sum of gradients; rows of a step are one batch.

    The plain loop takes the mean over the tokens of a micro-batch, as ftcli does for a step of one.
    """
    exact = ("model.quantization=none", "method=lora", "method.r=4", "optimizer=sgd", "scheduler=constant",
             "optimizer.lr=0.1", "trainer.max_grad_norm=null", "scheduler.warmup_ratio=0")  # fmt: skip
    config = bench.shorten(resolve(overrides, *exact), 5)
    kept: list[dict[str, torch.Tensor]] = []
    ours = build_run(config)
    ours.trainer.fit(ours)
    loop = PlainLoop(build_run(config))
    build = bench.build_run

    def build_and_keep(config: dict):
        run = build(config)
        prepare = run.method.prepare

        def keep(model):
            prepared = prepare(model)
            kept.append(prepared)
            return prepared

        monkeypatch.setattr(run.method, "prepare", keep)
        return run

    monkeypatch.setattr("ftcli.jobs.plain_loop.build_run", build_and_keep)
    clock = loop(config)
    theirs = ours.method.get_trained_tensors(kept[0])
    state = ours.get_trained_tensors()
    assert clock.tokens[-1] == sum(
        int(loop.prepared.lengths[row]) for step in loop.steps[:5] for rows in step for row in rows
    )
    assert max(t.abs().max() for name, t in state.items() if "lora_B" in name) > 1e-3
    for name, tensor in state.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=2e-3, atol=2e-5)


def test_accumulated_steps_end_with_the_pass(overrides):
    run = build_run(bench.shorten(resolve(overrides, "trainer.gradient_accumulation_steps=5"), 8))
    loop = PlainLoop(run)
    assert [len(step) for step in loop.steps[:6]] == [5, 5, 2, 5, 5, 2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["method=adalora"], "method=AdaLora"),
        (["method=full", "trainable=lisa"], "trainable"),
        (["method=lora", "data.packing=bins"], "data.packing=bins"),
        (["method=lora", "callback=neftune"], "callback.neftune"),
        (["method=full", "optimizer=mezo"], "optimizer"),
    ],
)
def test_a_job_without_a_plain_counterpart_is_named(overrides, changes, named):
    words = [word for word in overrides if not word.startswith("method")]
    run = build_run(resolve(words, "model.quantization=none", *changes))
    with pytest.raises(UserError, match=named):
        PlainLoop(run)


def test_steps_that_warm_up_are_not_timed():
    """Three slow steps of 100 tokens, then two of 10 tokens in half a second each."""
    clock = bench.Clock()
    clock.began, clock.ends = 0.0, [50.0, 90.0, 100.0, 100.5, 101.0]
    clock.tokens = [0, 100, 200, 300, 310, 320]
    assert clock.figures() == {"tok_s": 20.0, "first_step_s": 50.0}


@pytest.mark.parametrize("loop", [[], ["--against", "plain"]])
def test_a_round_without_a_timed_step_is_refused(loop, capsys):
    assert ftcli(["bench", "qlora_mini", "--steps", "3", *loop]) == 2
    assert "--steps 4 or more" in capsys.readouterr().err


def test_a_loop_that_does_not_exist(capsys):
    assert ftcli(["bench", "qlora_mini", "--against", "trl"]) == 2
    assert "--against plain" in capsys.readouterr().err
