"""State of optimizers, extrapolated from small stand-ins, against that of a real step."""

import pytest
import torch
from torch import nn

from ftcli.optimizers.library import LibraryOptimizer
from ftcli.planning.optimizer_state import measure_state

LARGE, VECTOR = (700, 900), (300_000,)  # above the size up to which a tensor is its own stand-in
FP32, BF16 = torch.float32, torch.bfloat16


def real(optimizer, shape, dtype):
    """Bytes of the state of one tensor after a step, code tables of constant size left out."""
    parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
    parameter.grad = torch.ones_like(parameter)
    built = optimizer.build([("weight", parameter)], torch.device("cpu"))
    built.step()
    state = built.state[parameter]
    tensors = [t for key, t in state.items() if torch.is_tensor(t) and not key.startswith("qmap")]
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("shape", [LARGE, (64, 96), (96,)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize(
    "optimizer",
    ["torch.optim.AdamW", "torch.optim.Adafactor", "torch.optim.SGD", "bitsandbytes.optim.AdamW8bit",
     "bitsandbytes.optim.PagedAdamW32bit", "bitsandbytes.optim.Lion8bit"],
)  # fmt: skip
def test_state_is_that_of_a_real_step(optimizer, dtype, shape):
    library = LibraryOptimizer(optimizer)
    estimate = measure_state(library, [("weight", shape, dtype)], "cpu").bytes
    assert estimate == pytest.approx(real(library, shape, dtype), rel=0.002, abs=64)


@pytest.mark.parametrize(
    "optimizer, options, dtype, per_entry",
    [
        ("torch.optim.AdamW", {}, FP32, 8),
        ("torch.optim.AdamW", {}, BF16, 4),
        ("torch.optim.SGD", {}, FP32, 0),
        ("torch.optim.SGD", {"momentum": 0.9}, FP32, 4),
        ("bitsandbytes.optim.AdamW8bit", {}, FP32, 2 + 2 * 4 / 256),
        ("bitsandbytes.optim.PagedAdamW32bit", {}, BF16, 8),
        ("bitsandbytes.optim.Lion", {}, FP32, 4),
        ("torch.optim.Adafactor", {}, FP32, 4 * (700 + 900) / (700 * 900)),
        ("ftcli.papers.darex.optimizer.AdamR", {}, FP32, 8 + 4),  # and the pretrained weights
    ],
)
def test_bytes_an_entry(optimizer, options, dtype, per_entry):
    total = measure_state(
        LibraryOptimizer(optimizer, **options), [("weight", LARGE, dtype)], "cpu"
    ).bytes
    assert total / (700 * 900) == pytest.approx(per_entry, rel=1e-3, abs=1e-5)


def test_vectors_are_extrapolated_along_their_length():
    assert measure_state(
        LibraryOptimizer(), [("weight", VECTOR, FP32)], "cpu"
    ).bytes == pytest.approx(8 * VECTOR[0], abs=8)


def test_a_fallback_is_what_is_counted_where_it_will_be_used():
    paged = LibraryOptimizer("bitsandbytes.optim.PagedAdamW8bit", fallback="torch.optim.AdamW")
    on_cpu, on_gpu = (
        measure_state(paged, [("weight", LARGE, FP32)], device) for device in ("cpu", "cuda")
    )
    assert on_cpu.bytes > 3 * on_gpu.bytes
    assert on_cpu.pageable == 0 and on_gpu.pageable == on_gpu.bytes


def test_the_optimizer_of_the_job_is_left_as_it_was():
    library = LibraryOptimizer()
    measure_state(library, [("weight", (8, 8), FP32)], "cpu")
    assert library.optimizer is None


@pytest.mark.parametrize("name", ["layers.0.weight", "embed.weight"])
@pytest.mark.parametrize("shape", [(64, 300), (300, 64)])
@pytest.mark.parametrize(
    "options", [{}, {"projector": "tucker"}, {"transform": "natural", "history": 3}]
)
def test_galore_says_what_it_keeps(name, shape, options):
    library = LibraryOptimizer("ftcli.papers.natural_galore.optimizer.GaLore", rank=16, **options)
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.ones_like(parameter)
    built = library.build([(name, parameter)], torch.device("cpu"))
    built.step()
    kept = [t for t in built.state[parameter].values() if torch.is_tensor(t)]
    assert measure_state(library, [(name, shape, FP32)], "cpu").bytes == sum(
        4 * t.numel() for t in kept
    )
