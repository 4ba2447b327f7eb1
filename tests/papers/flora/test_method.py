"""FLoRA: the update is a Tucker product in the weight's own modes, and folds into any layer."""

from __future__ import annotations

import math

import peft
import pytest
import torch
from torch import nn

from ftcli.papers.flora.method import FloraConfig, FloraLayer
from tests.methods.tiny import load, loss_of, method, trainable, write_llama
from tests.methods.tuners.kinds import KINDS, build, output

#: A layer of each number of modes, with everything a convolution can have, and its input.
LAYERS = {
    "linear": (lambda: nn.Linear(10, 12), (3, 10), [4, 5]),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1), (2, 6, 9), [3, 4, 2]),
    "conv2d": (
        lambda: nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2, groups=2),
        (2, 6, 9, 9),
        [2, 4, 2, 3],
    ),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 7, 7), [1, 4, 2, 2]),
    "conv3d": (lambda: nn.Conv3d(4, 6, (2, 3, 3)), (1, 4, 5, 6, 7), [2, 3, 2, 2, 3]),
}
SIDES = {
    "linear": ("out", "in"),
    "conv1d": ("out", "in", "width"),
    "conv2d": ("out", "in", "height", "width"),
    "depthwise": ("out", "in", "height", "width"),
    "conv3d": ("out", "in", "depth", "height", "width"),
}


def wrapped(layer, **options):
    torch.manual_seed(0)
    config = FloraConfig(target_modules=["0"], **options)
    model = peft.get_peft_model(nn.Sequential(layer), config)
    [layer] = [m for m in model.modules() if isinstance(m, FloraLayer)]
    return model, layer


def factors(layer, sides):
    return [getattr(layer, f"flora_U_{side}")["default"] for side in sides]


def tucker(core, parts):
    """By einsum: the core's modes are a, b, ..., the weight's v, w, ..."""
    inner, outer = "abcde"[: core.dim()], "vwxyz"[: core.dim()]
    pairs = ",".join(o + i for o, i in zip(outer, inner, strict=True))
    return torch.einsum(f"{inner},{pairs}->{outer}", core, *parts)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_update_is_the_einsum_begins_at_zero_and_merges(name):
    make, shape, ranks = LAYERS[name]
    base, x = make(), torch.randn(shape)
    before = base(x)
    model, layer = wrapped(base, ranks=ranks, scale=0.3)
    assert torch.equal(model(x), before)
    core, parts = layer.flora_G["default"], factors(layer, SIDES[name])
    assert core.abs().max() == 0 and all(part.abs().min() > 0 for part in parts)
    counted = math.prod(ranks) + sum(p.numel() for p in parts)
    assert sum(p.numel() for p in trainable(model).values()) == counted
    nn.init.normal_(core)
    assert torch.allclose(layer.delta("default"), 0.3 * tucker(core, parts), atol=1e-5)
    tuned = model(x)
    assert (tuned - before).abs().max() > 1e-2
    merged = model.merge_and_unload()
    assert type(merged[0]) is type(base) and (merged(x) - tuned).abs().max() < 1e-5


def test_parameters_of_the_example_are_13324():
    model, _ = wrapped(nn.Conv2d(256, 512, 3), ranks=[16, 16, 2, 2])
    assert sum(p.numel() for p in trainable(model).values()) == 13_324


@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d", "conv3d"])
@torch.no_grad()
def test_full_ranks_hold_any_update(name):
    """Higher-order SVD: factors are left singular vectors of the unfoldings."""
    layer = LAYERS[name][0]()
    target = torch.randn(layer.weight.shape)
    sizes = list(target.shape)
    ranks = [sizes[1], sizes[0], *sizes[2:]]  # in before out
    _, tuned = wrapped(layer, ranks=ranks, scale=2.0)
    core = target / 2.0
    parts = factors(tuned, SIDES[name])
    for mode, part in enumerate(parts):
        u = torch.linalg.svd(target.movedim(mode, 0).flatten(1), full_matrices=True)[0]
        part.copy_(u)
        core = torch.tensordot(core, u, dims=([0], [0]))  # U_iᵀ on the first mode, put last
    tuned.flora_G["default"].copy_(core)
    assert (tuned.delta("default") - target).abs().max() < 1e-5


@torch.no_grad()
def test_with_an_identity_core_it_is_lora():
    linear, x = nn.Linear(10, 12), torch.randn(5, 10)
    model, layer = wrapped(linear, r=4, scale=1.5)
    layer.flora_G["default"].copy_(torch.eye(4))
    a, b = layer.flora_U_in["default"], layer.flora_U_out["default"]
    assert torch.allclose(model(x), linear(x) + 1.5 * (x @ a) @ b.T, atol=1e-6)


def test_at_step_0_only_cores_have_a_gradient(tmp_path):
    model = method("flora").prepare(load(write_llama(tmp_path)))
    loss_of(model.train()).backward()
    moved = {n for n, p in trainable(model).items() if p.grad.abs().max() > 0}
    assert moved == {n for n in trainable(model) if "flora_G" in n} and len(moved) == 14


def test_ranks_above_a_mode_are_refused_and_defaults_are_cut():
    with pytest.raises(ValueError, match="above the in mode's 1"):
        wrapped(LAYERS["depthwise"][0](), ranks=[2, 4, 2, 2])
    with pytest.raises(ValueError, match="takes 4 ranks"):
        wrapped(LAYERS["depthwise"][0](), ranks=[2, 4])
    _, layer = wrapped(LAYERS["depthwise"][0](), r=16)
    assert layer.flora_G["default"].shape == (6, 1, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_other_architectures(kind):
    base = build(kind)
    before = output(base)
    how = method("flora", task_type=None)
    model = how.prepare(base)
    assert torch.equal(output(model), before)
    for name, parameter in trainable(model).items():
        if "flora_G" in name:
            nn.init.normal_(parameter, std=0.1)
    moved = output(model)
    assert not torch.equal(moved, before)
    assert (output(how.merge(model)) - moved).abs().max() < 1e-5 * max(1, moved.abs().max())


def fitted(config, target, x) -> float:
    """Error of a convolution with this adapter on a task whose kernel is the base's plus `target`."""
    torch.manual_seed(1)
    base = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    with torch.no_grad():
        wanted = base(x) + nn.functional.conv2d(x, target, padding=1)
    model = peft.get_peft_model(nn.Sequential(base), config)
    stepper = torch.optim.Adam(trainable(model).values(), lr=2e-2)
    for _ in range(300):
        stepper.zero_grad()
        loss = nn.functional.mse_loss(model(x), wanted)
        loss.backward()
        stepper.step()
    assert sum(p.numel() for p in trainable(model).values()) <= 192
    return loss.item()


def test_a_shift_of_low_multilinear_rank_is_met_better_than_by_flattened_lora():
    """192 parameters for LoRA of rank 1, 140 for FLoRA of ranks 4, 4, 1, 1."""
    torch.manual_seed(0)
    parts = [torch.randn(16, 4), torch.randn(16, 4), torch.randn(3, 1), torch.randn(3, 1)]
    target, x = 0.05 * tucker(torch.randn(4, 4, 1, 1), parts), torch.randn(16, 16, 8, 8)
    lora = fitted(peft.LoraConfig(target_modules=["0"], r=1, lora_alpha=4), target, x)
    flora = fitted(FloraConfig(target_modules=["0"], ranks=[4, 4, 1, 1]), target, x)
    assert flora < 0.1 * lora
