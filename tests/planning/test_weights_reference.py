"""The reference copy of the model in a plan, against the one that is loaded."""

from __future__ import annotations

import pytest
from bitsandbytes.nn import Linear4bit

from ftcli.models.bits import measure_bytes
from ftcli.objectives.reference import Reference
from ftcli.planning.plan import Plan, estimate_memory
from ftcli.planning.schedule import Schedule
from ftcli.planning.weights import weigh_reference
from ftcli.run.build import build_run
from tests.planning.jobs import build_job, machine
from tests.planning.test_memory import FULL, Peak

PAIRS = ("data=e2e_pairs", "data.pairs=true", "objective=dpo", "eval=none", "data.limit=16",
         "trainer.batch_size=2", "trainer.precision=fp32", "model.dtype=float32")  # fmt: skip


def held(model) -> int:
    """Bytes of its weights, packed ones with their scales."""
    packed = [module for module in model.modules() if isinstance(module, Linear4bit)]
    known = {id(layer.weight) for layer in packed}
    plain = {id(p): p.numel() * p.element_size() for p in model.parameters() if id(p) not in known}
    return sum(plain.values()) + sum(measure_bytes(layer).total for layer in packed)


@pytest.mark.parametrize(
    "overrides",
    [FULL, ("method=pissa", "model.quantization=none"), ("method=lora", "objective.reference=separate")],
    ids=["full", "pissa", "nf4"],
)  # fmt: skip
def test_the_copy_has_the_bytes_of_the_one_that_is_read(overrides, tmp_path):
    job = build_job(*PAIRS, *overrides, f"data.cache_dir={tmp_path}")
    run = build_run(job.config)
    run.load_model()
    with Reference(run, run.objective.reference).model() as model:
        assert model is not run.model
        assert weigh_reference(job).bytes == held(model) > 0


@pytest.mark.parametrize(
    "overrides",
    [
        (*PAIRS, "method=lora"),
        FULL,
        (*FULL, "objective=grpo", "objective.rewards={exact_match: 1}", "objective.beta=0"),
    ],
    ids=["adapter off", "nothing compared", "weight 0"],
)
def test_without_one_there_is_none(overrides):
    assert weigh_reference(build_job(*overrides)).bytes == 0


def test_penalties_and_answers_are_compared_too():
    for words in (
        ("objective=grpo", "objective.rewards={exact_match: 1}", "objective.beta=0.1"),
        ("+penalty=consistency",),
    ):
        assert weigh_reference(build_job(*FULL, *words)).bytes > 0


def test_a_step_of_pairs_has_the_planned_peak(tmp_path):
    words = (*PAIRS, *FULL, f"data.cache_dir={tmp_path}")
    job = build_job(*words)
    run = build_run(job.config)
    run.load_model()
    run.objective.setup(run)
    batches = (next(iter(run.build_loader())),)
    (micro,) = run.objective.rollout(None, list(batches))
    model = run.model.train()
    weights = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    with Peak(weights) as peak:
        run.objective(model, micro).values.mean().backward()
    longest = int(micro["lengths"].max())
    memory = estimate_memory(job, longest, machine(24e9, "cpu")).memory(
        int(micro["lengths"].sum()) / longest
    )
    standing = memory.weights + memory.optimizer + memory.runtime + memory.allocator
    assert memory.total - standing == pytest.approx(peak.peak, rel=0.15)


def test_scores_computed_before_give_the_copy_back():
    live, before = (
        estimate_memory(build_job(*PAIRS, *more), 64, machine(24e9, "cpu"))
        for more in (FULL, (*FULL, "objective.precompute=true"))
    )
    copy = live.memory(4).reference
    assert live.memory(4).total - before.memory(4).total == copy == live.reference.bytes
    # of an adapter on a base that it has changed, the pass before the first step needs most
    small = estimate_memory(
        build_job(*PAIRS, "method=pissa", "model.quantization=none", "objective.precompute=true"),
        8, machine(24e9, "cpu"),
    ).memory(1)  # fmt: skip
    assert small.reference == copy and small.optimizer == small.gradients == 0


def test_a_row_of_pairs_is_two_rows_of_tokens():
    alone, pairs = (
        Plan(build_job("data=e2e_pairs", f"data.pairs={kind}", *FULL), 24, Schedule(longest=64))
        for kind in ("false", "true")
    )
    assert pairs.rows == 2 * alone.rows
    assert pairs.largest["plain"] in (alone.largest["plain"] // 2, alone.largest["plain"] // 2 - 1)
