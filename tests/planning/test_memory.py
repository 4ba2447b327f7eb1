"""Memory by part: known cases, and the peak of a real training step."""

import json
import subprocess
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ftcli.models.bits import measure_bytes
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.planning.memory import Memory
from ftcli.planning.plan import Plan, estimate_memory
from ftcli.planning.weights import count_weights
from tests.planning.jobs import PLAIN, build_job, machine

FULL = ("method=full", "model.quantization=none")


class Peak(TorchDispatchMode):
    """Highest sum of bytes alive at once among the tensors that are made inside the block."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.alive, self.now, self.peak = weights, {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def note(self, storage):
        key = storage._cdata
        if key not in self.weights and key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.free, key)

    def free(self, key):
        self.now -= self.alive.pop(key, 0)


def batch(rows, length):
    labels = torch.zeros(1, rows * length, dtype=torch.long)
    labels[0, ::length] = -100
    return {
        "input_ids": torch.zeros(1, rows * length, dtype=torch.long),
        "position_ids": torch.arange(length).repeat(rows)[None],
        "lengths": torch.full((rows,), length, dtype=torch.int32),
        "labels": labels,
    }


def real_peak(job, rows, length, autocast):
    """Bytes above weights and optimizer state at the peak of one forward and backward pass."""
    model = job.method.prepare(job.source.load("cpu")).train()
    if job.trainer.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    objective, lower = NextTokenPrediction(), nullcontext()
    if autocast:
        lower = torch.autocast("cpu", torch.bfloat16)
    with Peak(weights) as peak:
        with lower:
            loss = objective.numerator(objective(model, batch(rows, length)))
        loss.backward()
    return peak.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("overrides", [FULL, PLAIN, ()], ids=["full", "lora", "qlora"])
def test_estimate_is_within_15_percent_of_a_real_step(overrides, autocast, checkpointing):
    rows, length = 4, 128
    again = f"trainer.gradient_checkpointing={str(checkpointing).lower()}"
    precision = f"trainer.precision={'bf16' if autocast else 'fp32'}"
    job = build_job(*overrides, again, precision)
    memory = estimate_memory(job, length, machine(24e9, "cpu")).memory(rows)
    standing = (
        memory.weights + memory.adapter + memory.optimizer + memory.runtime + memory.allocator
    )
    assert memory.total - standing == pytest.approx(
        real_peak(build_job(*overrides, again, precision), rows, length, autocast), rel=0.15
    )


@pytest.mark.parametrize("length", [32, 128])
def test_without_backward_it_is_that_of_a_forward_pass(length):
    job = build_job(
        "method=full", "model.quantization=none", "optimizer=mezo", "trainer.precision=fp32"
    )
    memory = estimate_memory(job, length, machine(24e9, "cpu")).memory(4)
    model = job.method.prepare(job.source.load("cpu")).eval()
    weights = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    with Peak(weights) as peak, torch.no_grad():
        NextTokenPrediction()(model, batch(4, length))
    assert memory.gradients == memory.activations == memory.optimizer == 0
    assert memory.total - memory.weights - memory.runtime == pytest.approx(peak.peak, rel=0.15)


def test_bytes_of_a_quantised_base_are_those_of_the_loaded_model():
    job = build_job()
    weights = count_weights(job.model, "nf4")
    loaded = job.source.load("cpu")
    layers = [module for module in loaded.modules() if isinstance(module, Linear4bit)]
    held = sum(measure_bytes(layer).total for layer in layers)
    packed = {id(layer.weight) for layer in layers}
    rest = {id(p): p.numel() * p.element_size() for p in loaded.parameters() if id(p) not in packed}
    assert weights.quantised == held
    assert weights.rest == sum(rest.values())


def memory(accumulates=False, **parts):
    sizes = dict.fromkeys(
        ("weights", "adapter", "reference", "optimizer", "callbacks", "gradients", "activations", "logits", "transient",
         "runtime", "allocator", "pageable"), 0,
    )  # fmt: skip
    return Memory(**sizes | parts, accumulates=accumulates)


def test_logits_and_what_is_computed_again_never_meet():
    assert memory(activations=10, logits=7, transient=5).total == 17
    assert memory(activations=10, logits=3, transient=5).total == 15


def test_gradients_meet_activations_only_while_they_accumulate():
    alone = memory(activations=10, gradients=8, logits=1)
    assert alone.total == 11
    assert memory(activations=10, gradients=80, logits=1).total == 80
    assert memory(accumulates=True, activations=10, gradients=8, logits=1).total == 19


def test_parts_add_up_to_the_total():
    for sizes in ({"logits": 9}, {"transient": 9}, {"gradients": 90}):
        estimate = memory(weights=1, adapter=2, optimizer=3, activations=4, runtime=5, **sizes)
        assert sum(estimate.parts().values()) == estimate.total


def test_a_paged_optimizer_needs_to_fit_without_its_state():
    assert memory(weights=10, optimizer=6, pageable=6).required == 10


def test_logits_are_limited_by_the_chunk():
    estimate = estimate_memory(build_job("objective.chunk_size=128", *PLAIN), 64, machine(24e9))
    hidden = 256 * 4 * 2
    assert estimate.logits(64) == 64 * (4096 * 12 + hidden)
    assert estimate.logits(1000) == 128 * 4096 * 12 + 1000 * hidden


def test_the_largest_micro_batch_fits_and_one_more_row_does_not():
    estimate = estimate_memory(build_job(*PLAIN), 128, machine(24e9))
    budget = 2e9
    for checkpointing in (False, True):
        rows = estimate.largest_rows(budget, checkpointing)
        assert estimate.memory(rows, checkpointing).required <= budget
        assert estimate.memory(rows + 1, checkpointing).required > budget
    assert estimate.largest_rows(budget, True) > estimate.largest_rows(budget, False)
    assert estimate.largest_rows(1e6) == 0


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_resident_memory_of_a_real_run_is_within_25_percent(checkpointing):
    words = ("data.limit=400", "trainer.batch_size=48", "trainer.precision=fp32", "eval=none",
             f"trainer.gradient_checkpointing={checkpointing}")  # fmt: skip
    with TemporaryDirectory() as folder:
        overrides = (*words, "trainer.max_steps=4", f"run.dir={folder}", "run.name=rss",
               f"data.cache_dir={folder}/tokens")  # fmt: skip
        command = [sys.executable, "-m", "ftcli", "train", "qlora_mini", *overrides]
        subprocess.run(command, check=True, capture_output=True)
        result = json.loads((Path(folder) / "rss" / "latest" / "result.json").read_text())
        planned = Plan(build_job(*overrides)).memory.total
    assert planned / 1e9 == pytest.approx(result["peak_memory_gb"], rel=0.25)
