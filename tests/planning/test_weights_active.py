"""Plans of policies that train some blocks at a time, against what a run has in memory."""

from __future__ import annotations

import pytest

from ftcli.core.callback import Callback
from ftcli.optimizers.state import nbytes
from ftcli.planning.memory import Estimate
from ftcli.planning.plan import estimate_memory
from ftcli.planning.weights import find_active_parameters
from ftcli.run.build import build_run
from tests.planning.jobs import PLAIN, build_job, machine
from tests.planning.test_memory import FULL, Peak, batch

STEPS = ("trainer.precision=fp32", "model.dtype=float32", "trainer.max_steps=3", "eval=none",
         "data.limit=8", "trainer.batch_size=2", "trainer.log_every=100")  # fmt: skip
LISA = (*FULL, "+trainable=lisa", "trainable.gamma=2", "trainable.interval=1")
CASES = {
    "lisa": LISA,
    "lisa, state stays": (*LISA, "trainable.state_on_switch=keep", "trainable.gamma=7"),
    "lisa, no table of tokens": (*LISA, "trainable.always_on=['model.norm.weight']"),
    "top layers": (*FULL, "+trainable=top_layers", "trainable.always_on=['model.norm.weight']"),
    "random adapters": (*PLAIN, "+trainable=rst", "trainable.state_on_switch=drop"),
}


class Watch(Callback):
    """The most bytes of gradients and of optimizer state at any step."""

    gradients = state = 0

    def after_backward(self, state):
        held = (p.grad for p in state.model.parameters() if p.grad is not None)
        self.gradients = max(self.gradients, sum(g.numel() * g.element_size() for g in held))

    def after_step(self, state):
        self.state = max(self.state, nbytes(state.run.optimizer_builder.optimizer))


def planned(*overrides: str) -> Estimate:
    return estimate_memory(build_job(*overrides), 64, machine(24e9, "cpu"))


@pytest.mark.parametrize("name", ["lisa", "lisa, state stays", "random adapters"])
def test_gradients_and_state_are_those_of_a_run(name, tmp_path):
    words = (*CASES[name], *STEPS, f"data.cache_dir={tmp_path}")
    run = build_run(build_job(*words).config)
    watch = run.loggers["watch"] = Watch()
    run.trainer.fit(run)
    memory = planned(*words).memory(2)
    assert memory.gradients == watch.gradients
    tensors = len(list(run.model.parameters()))
    assert memory.optimizer == pytest.approx(watch.state, abs=8 * tensors)  # counters of steps


@pytest.mark.parametrize("name", ["top layers", "lisa, no table of tokens"])
def test_activations_are_kept_from_the_lowest_block_that_moves(name):
    job = build_job(*CASES[name], *STEPS)
    memory = estimate_memory(job, 128, machine(24e9, "cpu")).memory(4)
    names, model = find_active_parameters(job).names, job.source.load("cpu")
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in names)
    weights = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    with Peak(weights) as peak:
        losses = job.objective(model.train(), batch(4, 128))
        losses.values.sum().backward()
    standing = memory.weights + memory.optimizer + memory.runtime + memory.allocator
    assert memory.total - standing == pytest.approx(peak.peak, rel=0.15)
    whole = estimate_memory(build_job(*FULL, *STEPS), 128, machine(24e9, "cpu")).memory(4)
    assert memory.activations < 0.9 * whole.activations


def test_state_that_waits_on_the_cpu_is_paged_out_of_a_gpu():
    words = (*LISA, "trainable.state_on_switch=offload")
    gpu, cpu = (
        estimate_memory(build_job(*words), 64, machine(24e9, kind)) for kind in ("cuda", "cpu")
    )
    dropped = planned(*LISA).optimizer.bytes
    assert gpu.optimizer.bytes - gpu.optimizer.pageable == dropped
    assert cpu.optimizer.pageable == 0 and cpu.optimizer.bytes == gpu.optimizer.bytes


def test_what_rests_is_free_again_and_in_every_checkpoint():
    job = build_job(*LISA)
    before = [p.requires_grad for p in job.model.parameters()]
    estimate = estimate_memory(job, 64, machine(24e9))
    assert [p.requires_grad for p in job.model.parameters()] == before
    assert estimate.weights.trained_bytes > estimate.gradients > 0


def test_a_policy_that_does_not_fit_is_said_before_anything_is_loaded():
    from ftcli.core.errors import UserError

    with pytest.raises(UserError, match="cannot be chosen"):
        planned(*LISA, "trainable.gamma=99")
