"""A loss spike: rollback to the checkpoint before it, then training on the data after it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume, train
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.trainer.checkpoint import Checkpoints
from ftcli.trainer.rollback import equal_states
from ftcli.trainer.spikes import MIN_LOSSES, spike_limit
from tests.trainer.test_guard import assert_same, cut, figures, job, order, state, without

WORDS = (
    "method.r=4", "method.lora_dropout=0", "trainer.max_steps=14", "trainer.save_every=3",
    "trainer.on_spike=rollback", "data.limit=60",
)  # fmt: skip


def raise_loss(monkeypatch, bad):
    """Multiply the loss of some batches by 50."""
    original = NextTokenPrediction.__call__

    def call(self, model, batch):
        losses = original(self, model, batch)
        losses.values = losses.values * (50 if batch["indices"] in bad else 1)
        return losses

    monkeypatch.setattr(NextTokenPrediction, "__call__", call)


def rollbacks(run):
    lines = (Path(run) / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] in ("rollback", "spike")]


def test_the_limit_is_so_many_robust_standard_deviations_above_the_median():
    losses = [2.0, 2.1, 1.9, 2.2, 1.8, 2.05, 1.95, 50.0]  # one outlier moves neither estimate far
    assert spike_limit(losses[:7], 7) == math.inf and len(losses) == MIN_LOSSES
    deviations = sorted(abs(x - 2.025) for x in losses)
    assert spike_limit(losses, 7) == pytest.approx(
        2.025 + 7 * 1.4826 * (deviations[3] + deviations[4]) / 2
    )
    assert spike_limit([2.0] * 8, 7) == pytest.approx(2.14)


@pytest.fixture(scope="module")
def spiky(tmp_path_factory):
    """A run whose eleventh batch makes the loss jump; the batches; the run without 10 and 11."""
    root = tmp_path_factory.mktemp("spiky")
    plan = order(root, *WORDS)
    with pytest.MonkeyPatch.context() as patch:
        raise_loss(patch, [plan[10]])
        rolled = Path(train(job(root, *WORDS))["run"])
    with pytest.MonkeyPatch.context() as patch:
        without(patch, plan[9:11])
        plain = Path(train(job(root, *WORDS))["run"])
    return rolled, plain, plan


def test_a_rollback_is_as_if_the_batches_since_the_checkpoint_had_not_been(spiky):
    rolled, plain, _ = spiky
    (event,) = rollbacks(rolled)
    assert (event["event"], event["step"], event["to"]) == ("rollback", 11, 9)
    assert event["loss"] > event["limit"]
    assert not rollbacks(plain)
    last_rolled, last_plain = (Checkpoints(p / "checkpoints").find("last") for p in (rolled, plain))
    assert last_rolled.name == last_plain.name == "step-000014"
    assert [row["step"] for row in RunDir(rolled).metrics()] == list(range(1, 15))
    (a, b), (c, d) = state(rolled), state(plain)
    for kept in (b, d):
        kept["participants"]["spikes"].pop("rollbacks")
    assert equal_states((a, b), (c, d)) and figures(rolled) == figures(plain)


@pytest.mark.parametrize("step", [9, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_that_died_before_or_after_the_rollback_ends_the_same(
    step, spiky, tmp_path, monkeypatch
):
    rolled, _, plan = spiky
    raise_loss(monkeypatch, [plan[10]])
    resumed = cut(rolled, step, tmp_path / "cut")
    resume(resumed)
    assert_same(rolled, resumed)


@pytest.mark.slow
def test_rollbacks_are_bounded_and_then_spikes_are_only_noted(spiky, tmp_path, monkeypatch):
    _, _, plan = spiky
    raise_loss(monkeypatch, plan[10:14])
    run = Path(train(job(tmp_path, *WORDS, "trainer.max_rollbacks=1"))["run"])
    kinds = [event["event"] for event in rollbacks(run)]
    assert kinds[0] == "rollback" and kinds.count("rollback") == 1 and "spike" in kinds
    assert RunDir(run).result()["step"] == 14
