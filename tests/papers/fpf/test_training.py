"""Tasks in sequence, phases at their steps, and resumes to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ftcli.core.errors import UserError
from ftcli.papers.fpf import training
from ftcli.papers.fpf.groups import select_groups
from ftcli.papers.fpf.phase import finetune_groups, list_triggers
from ftcli.papers.fpf.stream import TaskStream, cut, split_tasks
from ftcli.papers.fpf.training import ContinualTraining


def state_of(run) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in run.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_triggers_are_at_equal_intervals_and_the_last_at_the_end():
    assert list_triggers(4, 18) == [5, 9, 14, 18]
    assert list_triggers(1, 18) == [18]
    assert list_triggers(0, 18) == []
    assert list_triggers(18, 18) == list(range(1, 19))


def test_the_stream_passes_over_each_task_in_turn():
    tasks = [list(range(10)), list(range(10, 27))]
    stream = TaskStream(tasks, num_steps=14, batch_size=8, seed=0)
    passes = [stream.list_batches(number) for number in range(len(stream.passes))]
    assert [len(batches) for batches in passes] == [2, 2, 2, 1, 3, 3, 1]  # 7 steps a task
    assert [p.task for p in stream.passes] == [0] * 4 + [1] * 3
    assert [p.first for p in stream.passes] == [True] + [False] * 3 + [True] + [False] * 2
    assert [p.last for p in stream.passes] == [False] * 3 + [True] + [False] * 2 + [True]
    for planned, batches in zip(stream.passes, passes, strict=True):
        seen = sorted(sum(batches, []))
        assert (seen == tasks[planned.task]) == planned.whole and set(seen) <= set(
            tasks[planned.task]
        )
    assert passes[0] != passes[1] == stream.list_batches(1)
    assert [len(part) for part in cut(np.arange(17), 8)] == [6, 6, 5]


def test_phases_run_at_their_steps_across_tasks(build, monkeypatch):
    steps, groups = [], []

    def record(context, settings, chosen, *args):
        steps.append(context.state.step)
        groups.append([group.name for group in chosen])
        finetune_groups(context, settings, chosen, *args)

    monkeypatch.setattr(training, "finetune_groups", record)
    run = build("pipeline.phases=4")
    outcome = run.pipeline.fit(run)
    assert steps == [5, 9, 14, 18]  # tasks end at 6, 12 and 18
    assert groups[0] == groups[3]
    assert outcome.state.step == 18
    # 3 tasks x 24 rows x 2 passes; 4 phases x 2 passes x 12 held rows
    assert outcome.metrics["gradients_stream"] == 144
    assert outcome.metrics["gradients_fpf"] == 96
    assert outcome.metrics["gradients"] == 240


def test_replay_adds_as_many_gradients_as_the_stream_has(build):
    run = build("pipeline.replay=true", "pipeline.phases=0")
    figures = run.pipeline.fit(run).metrics
    assert figures["gradients_stream"] == 144
    assert figures["gradients_replay"] == 144 - 8  # the first step finds nothing to replay
    assert figures["gradients_fpf"] == figures["fpf_parameters"] == 0
    plain = build("pipeline.phases=0")
    assert figures["training_flops"] > 1.8 * plain.pipeline.fit(plain).metrics["training_flops"]


def test_a_phase_at_the_end_is_fpf_after_plain_training(build):
    one = build("pipeline.phases=1")
    one.pipeline.fit(one)
    plain = build("pipeline.phases=0")
    training_run = ContinualTraining(plain.pipeline, plain)
    training_run.fit(None)
    before = state_of(plain)
    groups = select_groups(plain.model, plain.pipeline.groups)
    finetune_groups(
        training_run.context, plain.pipeline, groups, training_run.buffer, training_run.costs,
        len(training_run.stream.passes),
    )  # fmt: skip
    assert equal(state_of(one), state_of(plain))
    selected = ("normalization", "classifier")
    moved = {
        name
        for name, tensor in plain.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {name for name in before if any(word in name for word in selected)}


@pytest.mark.parametrize(
    "groups", ["[last_linear]", "[first_conv,last_linear]", "['*.statistics']"]
)
def test_frozen_groups_are_identical_to_the_bit(build, groups):
    run = build(f"pipeline.groups={groups}")
    loop = ContinualTraining(run.pipeline, run)
    loop.buffer.offer(range(20))
    before = state_of(run)
    loop._run_phase(0)
    after = state_of(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    words = {
        "last_linear": "classifier",
        "first_conv": "embedder.embedder.convolution",
        "statistics": "running",
    }
    wanted = [word for key, word in words.items() if key in groups]
    assert moved and {n for n in moved if "num_batches" not in n} == {
        name for name in before if any(word in name for word in wanted)
    }
    assert any("num_batches" in name for name in moved) == ("statistics" in groups)
    assert all(p.requires_grad for p in run.model.parameters())


def test_stored_logits_pull_replayed_examples_towards_them(build):
    run = build("objective.kd_weight=0.5")
    batch = run.build_loader().batch(range(5))
    batch["stored_logits"] = torch.randn(2, 6)
    run.model.eval()
    losses = run.objective(run.model, batch)
    logits = run.model(**batch["inputs"]).logits
    expected = cross_entropy(logits, batch["labels"], reduction="none")
    expected[3:] += 0.5 * (logits[3:] - batch["stored_logits"]).square().mean(1)
    assert torch.allclose(losses.values, expected, atol=1e-6)


def test_a_phase_with_logits_differs_from_one_without(build):
    plain, distilled = (build(f"objective.kd_weight={w}", "pipeline.phases=2") for w in (0.0, 0.5))
    plain.pipeline.fit(plain)
    distilled.pipeline.fit(distilled)
    assert not equal(state_of(plain), state_of(distilled))


@pytest.mark.parametrize(
    "overrides",
    [
        ["pipeline.phases=4", "pipeline.replay=true", "objective.kd_weight=0.5"],
        ["pipeline.phases=3", "pipeline.top=0.3", "optimizer.momentum=0.9"],
    ],
    ids=["replay", "top"],
)
def test_a_resumed_run_ends_at_the_same_bits(build, work, overrides):
    from ftcli.core.run_dir import RunDir

    whole, part = (
        build(*overrides, "trainer.save_every=5", "trainer.keep_last=9") for _ in range(2)
    )
    for run, name in ((whole, "whole"), (part, "part")):
        (work / name).mkdir()
        run.dir = RunDir(work / name)
    first = whole.pipeline.fit(whole)
    checkpoint = Path(whole.dir.checkpoints) / "step-000010"
    second = part.pipeline.fit(part, checkpoint)
    assert equal(state_of(whole), state_of(part))
    assert first.after == second.after
    assert first.metrics == second.metrics
    assert (work / "whole" / training.FILE).read_text() == (
        work / "part" / training.FILE
    ).read_text()


def test_statistics_are_saved_with_the_weights(build):
    run = build()
    run.pipeline.fit(run)
    saved = {name: t.clone() for name, t in run.get_trained_tensors().items()}
    assert saved.keys() == run.model.state_dict().keys()
    other = build("seed=4")
    assert not equal(state_of(other), saved)
    other.method.load_trained_tensors(other.model, saved)
    assert equal(state_of(other), saved)


def test_tasks_are_sources_where_rows_are_text():
    class Texts:
        sizes = [2, 3, 1]

        def __len__(self):
            return 6

        def find_sources(self, rows):
            return np.searchsorted(np.cumsum(self.sizes), np.asarray(rows), side="right")

    assert split_tasks(Texts(), 3) == [[0, 1], [2, 3, 4], [5]]
    assert split_tasks(Texts(), 2) == [[0, 1, 2, 3, 4], [5]]


@pytest.mark.parametrize(
    "override",
    [
        "pipeline.tasks=7",  
        "trainer.gradient_accumulation_steps=2", "trainer.on_nonfinite=skip",
        "pipeline.groups=[layernorm.*]",
    ],
)  # fmt: skip
def test_what_a_stream_cannot_do_is_refused(build, override):
    run = build(override)
    with pytest.raises(UserError):
        run.pipeline.fit(run)


def test_a_stream_is_not_resumed_with_another_length(build, work):
    from ftcli.core.run_dir import RunDir

    run, longer = build("trainer.save_every=5"), build("trainer.max_steps=24")
    run.dir = RunDir(work)
    run.pipeline.fit(run)
    with pytest.raises(UserError, match="18 steps cannot go on as one of 24"):
        longer.pipeline.fit(longer, Path(run.dir.checkpoints) / "step-000018")
