"""Bone's block-affine form against a loop over blocks, and the additive form that took its name."""

import pytest
import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.methods.peft import ADAPTER, Peft
from ftcli.models.anatomy import Anatomy, count_parameters
from ftcli.models.causal_lm import CausalLMSource
from tests.methods.tiny import load, logits, method, train, write_llama

R = 4


class Two(nn.Module):
    """A wide and a tall layer: a mix-up of blocks in and out would not fit."""

    def __init__(self, wide):
        super().__init__()
        self.wide, self.tall = nn.Linear(*wide), nn.Linear(20, 8)

    def forward(self, x):
        return self.tall(self.wide(x))


def adapted(r=R, scale=0.3, wide=(12, 20), **options):
    """A prepared pair of layers whose blocks have been moved off zero."""
    torch.manual_seed(0)
    how = method("bone", r=r, task_type=None, target_modules=["wide", "tall"], **options)
    model = how.prepare(Two(wide)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=scale)
    return model


def layers(model):
    return {name: getattr(model.base_model.model, name) for name in ("wide", "tall")}


def by_blocks(weight, blocks):
    """W_ij + W_ij B_i + B_i, block by block (the paper's block-affine form)."""
    r, changed = blocks.shape[-1], weight.clone()
    for i in range(weight.shape[0] // r):
        for j in range(weight.shape[1] // r):
            rows, columns = slice(i * r, (i + 1) * r), slice(j * r, (j + 1) * r)
            block = weight[rows, columns]
            changed[rows, columns] = block + block @ blocks[i] + blocks[i]
    return changed


@torch.no_grad()
def test_every_block_is_multiplied_and_shifted_by_that_of_its_row():
    model = adapted()
    for layer in layers(model).values():
        weight, blocks = layer.base_layer.weight, layer.miss_block[ADAPTER]
        assert blocks.shape == (weight.shape[0] // R, R, R)
        x = torch.randn(3, weight.shape[1])
        expected = nn.functional.linear(x, by_blocks(weight, blocks), layer.base_layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_at_the_start_it_is_the_base(tmp_path):
    base = load(write_llama(tmp_path))
    before = logits(base)
    assert torch.equal(logits(method("bone").prepare(base)), before)


def test_it_trains_r_values_a_row_of_every_weight(tmp_path):
    base = load(write_llama(tmp_path))
    rows = sum(linear.out_features for linear in Anatomy(base).block_linears)
    model = method("bone", r=16).prepare(base)
    assert count_parameters(model, trainable_only=True) == 16 * rows


@torch.no_grad()
def test_merging_and_taking_out_again_gives_the_weight_back():
    model = adapted(scale=0.02)
    x = torch.randn(3, 12)
    before, kept = model(x), {n: la.base_layer.weight.clone() for n, la in layers(model).items()}
    for layer in layers(model).values():
        layer.merge()
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    for name, layer in layers(model).items():
        assert (layer.base_layer.weight - kept[name]).abs().max() > 1e-3
        layer.unmerge()
        assert (layer.base_layer.weight - kept[name]).abs().max() < 1e-4


@torch.no_grad()
def test_blocks_of_one_scale_each_row_of_weights_plus_one():
    for layer in layers(adapted(r=1)).values():
        weight, blocks = layer.base_layer.weight, layer.miss_block[ADAPTER]
        change = layer.get_delta_weight(ADAPTER, weight)
        torch.testing.assert_close(change, (weight + 1) * blocks.view(-1, 1))


@torch.no_grad()
def test_its_change_has_more_ranks_than_r_and_the_additive_one_has_not():
    def ranks(model, change):
        return [torch.linalg.matrix_rank(change(la), rtol=1e-5) for la in layers(model).values()]

    affine = ranks(adapted(r=2), lambda la: la.get_delta_weight(ADAPTER, la.base_layer.weight))
    assert min(affine) > 2
    additive = ranks(adapted(r=2, init_weights=True), additive_change)
    assert max(additive) == 2


def additive_change(layer):
    """Sum and difference apart: the library gives the changed weight."""
    weight = layer.base_layer.weight
    return layer.get_delta_weight_miss(ADAPTER, weight.clone()) - weight


@torch.no_grad()
@pytest.mark.parametrize("wide", [(12, 20), (13, 20)])
def test_the_additive_form_tiles_one_matrix_along_the_input(wide):
    model = adapted(init_weights=True, wide=wide)
    for layer in layers(model).values():
        weight, shared = layer.base_layer.weight, layer.miss_block[ADAPTER]  # [out, in], [r, out]
        width = weight.shape[1]
        assert shared.shape == (R, weight.shape[0])
        changed = weight + shared.T.repeat(1, -(-width // R))[:, :width]
        x = torch.randn(3, width)
        expected = nn.functional.linear(x, changed, layer.base_layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(additive_change(layer), changed - weight, rtol=1e-4, atol=1e-5)


def test_blocks_must_divide_both_sides(tmp_path):
    with pytest.raises(UserError, match=r"divisible into \[r, r\] blocks"):
        method("bone", r=48).prepare(load(write_llama(tmp_path)))


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@torch.no_grad()
def test_on_a_quantised_base_it_acts_on_what_the_codes_stand_for(tmp_path, quantization):
    base = load(write_llama(tmp_path), quantization)
    model = method("bone", r=16).prepare(base)
    layer = model.base_model.model.model.layers[0].mlp.gate_proj
    layer.miss_block[ADAPTER].normal_(std=0.1)
    x = torch.randn(3, layer.in_features)
    expected = x @ by_blocks(layer.get_base_weight(), layer.miss_block[ADAPTER]).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_on_a_half_precision_base_blocks_and_their_product_are_float32(tmp_path):
    """In bfloat16 a block of 1e-4 beside a weight of 1 would be rounded away."""
    model = method("bone", r=16).prepare(load(write_llama(tmp_path), dtype="bfloat16"))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)
        layer.miss_block[ADAPTER].fill_(1e-4)
        change = layer.get_delta_weight(ADAPTER, layer.base_layer.weight)
    torch.testing.assert_close(change, torch.full_like(change, 17e-4))
    train(model, steps=2)
    assert layer.miss_block[ADAPTER].dtype == torch.float32


def test_published_counts_on_the_meta_device():
    def count(make):
        meta = CausalLMSource("owner/name", architecture="llama2_7b").build_meta_model()
        return count_parameters(make.prepare(meta), trainable_only=True)

    assert count(method("bone")) == count(method("miss")) == 87_031_808
    assert count(Peft(r=36)) == 89_948_160
