"""The campaign would see a difference, a traceback and litter: it is tested on runs that have them."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import save_file

from tests.chaos.chains import differences, remains
from tests.chaos.faults import DENIED, FULL, KILL, TERM, Fault


@pytest.fixture
def left(tmp_path):
    """A function: what a run like this one leaves, after a change to its folder."""

    def made(change=lambda run: None):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        run = place / "runs" / "chaos" / "2026"
        last = run / "checkpoints" / "step-000002"
        last.mkdir(parents=True)
        (run / "checkpoints" / "last").symlink_to(last.name)
        save_file({"w": torch.arange(4.0)}, last / "adapter.safetensors")
        for name in ("optimizer.pt", "participants.pt", "rng.pt"):
            torch.save({"state": {0: torch.ones(2)}}, last / name)
        (run / "config.yaml").write_text("run: {name: x}\n")
        row = {"step": 1, "loss": 0.5, "time": random.random()}
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (run / "result.json").write_text(json.dumps({"status": "finished", "metrics": {"a": 1.0}}))
        (run / "adapter").mkdir()
        (run / "adapter" / "x.safetensors").write_bytes(b"12")
        change(run)
        return remains("qst", place)

    return made


def nearly(run):
    """One weight by its last bit."""
    value = torch.arange(4.0)
    value[2] = torch.nextafter(value[2], torch.tensor(9.0))
    save_file({"w": value}, run / "checkpoints/last/adapter.safetensors")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (nearly, "run: weights w"),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.6}\n'), "run: metrics.jsonl"),
        (lambda run: (run / "adapter/x.safetensors").write_bytes(b"13"), "run: adapter/x.safetensors"),
        (lambda run: (run / ".result.json.ab12").touch(), "run: litter"),
        (lambda run: torch.save({"state": {0: torch.zeros(2)}}, run / "checkpoints/last/rng.pt"),
         "run: rng.pt .state.0"),
    ],
)  # fmt: skip
def test_a_difference_is_seen(left, change, key):
    assert differences(left(), left(change)) == [key]


def test_times_of_day_are_no_difference(left):
    assert differences(left(), left()) == []


def test_everything_that_can_happen_is_drawn():
    source = random.Random(0)
    drawn = [Fault.draw(source, 100, 2.0) for _ in range(300)]
    assert {fault.what for fault in drawn} == {KILL, TERM, FULL, DENIED}
    assert {fault.call is None for fault in drawn} == {True, False}
    assert all(1 <= fault.call <= 100 for fault in drawn if fault.call is not None)
