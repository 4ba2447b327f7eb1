"""SSF: begins as the base, folds into the base's own layers, and counts 2 C an operation."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from ftcli.core.errors import UserError
from ftcli.papers.ssf.layers import SsfLayer
from ftcli.papers.ssf.method import SsfConfig
from tests.methods.tiny import load, logits, method, trainable, write_llama
from tests.methods.tuners.kinds import KINDS, build, output

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def vit(**sizes):
    sizes = TINY | {"intermediate_size": 64, "image_size": 32, "patch_size": 8} | sizes
    return ViTForImageClassification(ViTConfig(num_labels=10, **sizes)).eval()


def convnext():
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32}
    return ConvNextForImageClassification(ConvNextConfig(num_labels=10, **sizes)).eval()


def count(model) -> int:
    return sum(p.numel() for p in trainable(model).values())


@torch.no_grad()
def perturb(model) -> None:
    for parameter in trainable(model).values():
        parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scales_of_one_and_shifts_of_zero_are_the_base_bit_for_bit(kind):
    base = build(kind)
    before = output(base)
    assert torch.equal(output(method("ssf", init_std=0.0, task_type=None).prepare(base)), before)


def test_scales_and_shifts_are_drawn_around_one_and_zero():
    model = get_peft_model(vit(), SsfConfig())
    scales, shifts = (
        torch.cat([p for n, p in trainable(model).items() if part in n])
        for part in ("ssf_scale", "ssf_shift")
    )
    assert len(scales) == len(shifts) == 640
    assert scales.mean().item() == pytest.approx(1, abs=3e-3)
    assert shifts.mean().item() == pytest.approx(0, abs=3e-3)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert shifts.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("make", [vit, convnext])
@torch.no_grad()
def test_merged_images_models_have_the_bases_modules_shapes_and_the_tuned_function(make):
    base, x = make(), torch.randn(2, 3, 32, 32)
    plain = {
        n: (type(m), {k: p.shape for k, p in m.named_parameters()}) for n, m in base.named_modules()
    }
    model = get_peft_model(copy.deepcopy(base), SsfConfig())
    perturb(model)
    tuned = model(x).logits
    assert (tuned - base(x).logits).abs().max() > 1e-2
    merged = model.merge_and_unload()
    assert (merged(x).logits - tuned).abs().max() < 1e-5
    assert plain == {
        n: (type(m), {k: p.shape for k, p in m.named_parameters()})
        for n, m in merged.named_modules()
    }


@torch.no_grad()
def test_every_kind_of_layer_folds_also_without_a_bias():
    layers = [
        (nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False), (2, 6, 9, 9)),
        (nn.Conv1d(6, 8, 3, dilation=2), (2, 6, 9)),
        (nn.Linear(6, 8, bias=False), (2, 5, 6)),
        (nn.LayerNorm(6), (2, 5, 6)),
        (nn.BatchNorm2d(6), (2, 6, 4, 4)),
    ]
    for layer, shape in layers:
        x = torch.randn(shape)
        model = get_peft_model(nn.Sequential(layer).eval(), SsfConfig(target_modules=["0"]))
        perturb(model)
        out = model(x)
        [tuned] = [m for m in model.modules() if isinstance(m, SsfLayer)]
        scale, shift = tuned.ssf_scale["default"], tuned.ssf_shift["default"]
        raw = layer(x)
        at = [1] * raw.dim()
        at[-1 if isinstance(layer, (nn.Linear, nn.LayerNorm)) else 1] = -1
        assert torch.allclose(out, scale.view(at) * raw + shift.view(at), atol=1e-6)
        model.merge_adapter()
        assert (model(x) - out).abs().max() < 1e-5
        model.unmerge_adapter()
        assert torch.equal(model(x), out) and torch.equal(layer(x), raw)


def test_a_bias_that_the_models_class_has_no_place_for_is_refused(tmp_path):
    how = method("ssf", task_type=None, new_biases=True)
    with pytest.raises(UserError, match="no bias to fold the shift into"):
        how.merge(how.prepare(build("phi3")))
    how = method("ssf", task_type=None, new_biases=False)
    model = how.prepare(build("phi3"))
    assert not [n for n in trainable(model) if "ssf_shift" in n]
    with torch.no_grad():
        tuned = output(model)
        assert (output(how.merge(model)) - tuned).abs().max() < 1e-5
    folder = write_llama(tmp_path)  # a Llama has one: its configuration is told
    how = method("ssf", new_biases=True)
    model = how.prepare(load(folder))
    tuned = logits(model)
    merged = how.merge(model)
    assert merged.config.attention_bias and merged.config.mlp_bias
    assert (logits(merged) - tuned).abs().max() < 1e-5


#: Trained scales and shifts of the paper's base models: twice the sum of all channels.
PAPER = {
    "vit_b16": (lambda: ViTForImageClassification(ViTConfig(num_labels=100)), 205_824, 768),
    "swin_b": (
        lambda: SwinForImageClassification(
            SwinConfig(
                embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], num_labels=100
            )
        ),
        278_016,
        1024,
    ),
    "convnext_b": (
        lambda: ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[128, 256, 512, 1024], depths=[3, 3, 27, 3], num_labels=100)
        ),
        260_608,
        1024,
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_counts(name):
    """ViT-B/16: the paper's 0.28 M with a head of 100 classes."""
    make, expected, width = PAPER[name]
    with torch.device("meta"):
        model = get_peft_model(make(), SsfConfig(modules_to_save=["classifier"]))
    layers = [m for m in model.modules() if isinstance(m, SsfLayer)]
    assert (
        sum(len(m.ssf_scale["default"]) + len(m.ssf_shift["default"]) for m in layers) == expected
    )
    assert count(model) == expected + 100 * width + 100
