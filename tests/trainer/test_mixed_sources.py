"""A run on two sources: the loss of each is logged, and a resumed run goes on to the same weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ftcli.config import compose, validate_and_convert
from ftcli.core.run_dir import RunDir
from ftcli.jobs.train import resume, train
from ftcli.objectives.base import Losses, sum_by_source
from ftcli.trainer.context import TrainingContext
from ftcli.trainer.meter import Meter


@pytest.fixture
def arguments(tmp_path):
    """Overrides of a job on two files of 9 and 4 rows, 12 rows an epoch."""
    sources = []
    for name, rows, weight in (("long", 9, 2), ("short", 4, 1)):
        path = tmp_path / f"{name}.jsonl"
        lines = [{"prompt": f"{name} {n}", "completion": f"answer {n} " * 3} for n in range(rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sources.append(f"{{path: {path}, weight: {weight}}}")
    return [
        "data=mixture", f"data.sources=[{', '.join(sources)}]", "data.rows_per_epoch=12", "data.validation=null",
        f"data.cache_dir={tmp_path / 'tokens'}", "eval=none", "scheduler=constant", "method.r=4",
        "trainer.batch_size=2", "trainer.log_every=1", "trainer.precision=fp32", "model.dtype=float32",
        "trainer.gradient_accumulation_steps=2",
    ]  # fmt: skip


def start(arguments, *more):
    composed = compose("qlora_mini", [*arguments, *more])
    validate_and_convert(composed)
    return RunDir(train(composed)["run"])


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(arguments, tmp_path):
    """7 steps of 4 rows reach into the third epoch, whose rows differ from those of the first."""
    whole = start(arguments, "trainer.max_steps=7", f"run.dir={tmp_path / 'whole'}")
    part = start(arguments, "trainer.max_steps=4", f"run.dir={tmp_path / 'part'}")
    resume(part.path, overrides=["trainer.max_steps=7"])
    a, b = (load_file(r.path / "checkpoints/last/adapter.safetensors") for r in (whole, part))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    metrics = [
        [{k: v for k, v in row.items() if k.startswith("loss")} for row in run.metrics()]
        for run in (whole, part)
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 7
    assert {name for row in metrics[0] for name in row} == {"loss", "loss/long", "loss/short"}
    data = json.loads((whole.path / "data.json").read_text())
    assert [(s["title"], s["drawn"]) for s in data["sources"]] == [("long", 8), ("short", 4)]


def test_the_loss_of_a_source_is_the_mean_over_its_tokens_alone():
    losses = Losses(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 1, 2]))
    sums = sum_by_source(losses, {"sources": torch.tensor([1, 0, 1])}, ("a", "b", "c"))
    assert [(float(s), int(n)) for s, n in sums.values()] == [(4.0, 1), (11.0, 3), (0.0, 0)]


def test_a_pair_counts_for_its_source_once():
    losses = Losses(torch.tensor([1.0, 5.0]), torch.tensor([0, 1]))
    batch = {"sources": torch.tensor([0, 0, 1, 1]), "pairs": 2}
    assert [float(s) for s, _ in sum_by_source(losses, batch, ("a", "b")).values()] == [1.0, 5.0]


def test_sources_are_averaged_over_tokens_of_all_steps_and_absent_without_any():
    meter, divide = Meter(), TrainingContext._average_over_ranks
    one = torch.tensor(1)
    for total, count in ((6.0, 3), (2.0, 1)):
        sums = {"a": (torch.tensor(total), count * one), "b": (torch.tensor(0.0), 0 * one)}
        meter.record_metrics({"accuracy": torch.tensor(total)}, 1, sums)
    alone = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1))
    metrics = meter.pop_metrics(lambda sums: divide(alone, sums))
    assert metrics["loss/a"] == 2.0 and metrics["accuracy"] == 4.0 and "loss/b" not in metrics
