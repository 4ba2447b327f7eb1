"""Recorded and injected attention, and the statistics of the initial noise, against their formulas."""

from __future__ import annotations

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.models.diffusion import noise_predictor
from ftcli.papers.styleid.attention import (
    Features,
    adain,
    attend,
    mix_queries,
    pair_features,
    tap_attention,
)
from tests.models.small_ldm import batch, small

ALL = ["up_blocks.*"]


def denoise(model, x, time: int = 300):
    with torch.no_grad():
        return noise_predictor(model, batch()["inputs"]["input_ids"])(x, time)


def test_recording_changes_nothing():
    model, x = small(), torch.randn(2, 12, 4, 4)
    unet = model.part("denoiser")
    plain = denoise(model, x)
    with tap_attention(unet, ALL) as taps:
        taps.record, taps.time = {}, 300
        assert torch.allclose(denoise(model, x), plain, atol=1e-5)
    assert torch.equal(denoise(model, x), plain)  # the library's own processors are back
    assert {layer for layer, _ in taps.record} == set(taps.layers) and len(taps.layers) == 4
    assert {time for _, time in taps.record} == {300}
    query, key, value = taps.record[taps.layers[0], 300]
    assert query.shape == key.shape == value.shape and query.shape[0] == 2


def test_an_injected_output_is_the_formula_on_recorded_tensors():
    model = small()
    layer = model.part("denoiser").get_submodule(
        "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
    )
    hidden, content, style = (torch.randn(2, 16, layer.to_q.in_features) for _ in range(3))
    with torch.no_grad(), tap_attention(model.part("denoiser"), ALL) as taps:
        stored: list[Features] = []
        for states in (content, style):
            taps.record = {}
            layer(states)
            stored.append(taps.record)
        taps.record, taps.gamma, taps.tau = None, 0.6, 1.7
        taps.inject = pair_features(*stored, [(0, 0), (1, 1)])
        output = layer(hidden)
    heads, d = layer.heads, layer.to_q.out_features // layer.heads

    def split(x):
        return x.view(2, 16, heads, d).transpose(1, 2)

    with torch.no_grad():
        query = 0.6 * split(layer.to_q(content)) + 0.4 * split(layer.to_q(hidden))
        logits = 1.7 * query @ split(layer.to_k(style)).transpose(2, 3) / d**0.5
        out = logits.softmax(-1) @ split(layer.to_v(style))
        expected = layer.to_out[0](out.transpose(1, 2).reshape(2, 16, -1))
    assert torch.allclose(output, expected, atol=1e-5)


def test_tau_sharpens_and_gamma_keeps_the_content():
    query, key, value = (torch.randn(1, 1, 6, 4) for _ in range(3))

    def entropy(tau):
        p = (tau * query @ key.transpose(-1, -2) / 2).softmax(-1)
        return -(p * p.log()).sum(-1)

    assert (entropy(1.5) < entropy(1.0)).all()
    assert torch.allclose(
        attend(query, key, value, 0.5),
        torch.nn.functional.scaled_dot_product_attention(query, key, value),
        atol=1e-6,
    )
    assert torch.equal(mix_queries(query, key, 1.0), query) and torch.equal(
        mix_queries(query, key, 0.0), key
    )


def test_pairs_take_queries_of_one_and_keys_of_the_other():
    place = ("layer", 1)
    content = {
        place: tuple(torch.full((2, 1), 10.0 * i) + torch.arange(2)[:, None] for i in (1, 2, 3))
    }
    style = {
        place: tuple(torch.full((3, 1), -10.0 * i) - torch.arange(3)[:, None] for i in (1, 2, 3))
    }
    query, key, value = pair_features(content, style, [(1, 0), (0, 2)])[place]
    assert query.flatten().tolist() == [11, 10]
    assert key.flatten().tolist() == [-20, -22] and value.flatten().tolist() == [-30, -32]


def test_adain_gives_each_channel_the_styles_mean_and_deviation():
    torch.manual_seed(0)
    content = torch.randn(3, 4, 8, 8) * 3 + 1
    style = torch.rand(3, 4, 8, 8)
    output = adain(content, style)
    for measure in (lambda x: x.mean((-1, -2)), lambda x: x.std((-1, -2), correction=0)):
        assert torch.allclose(measure(output), measure(style), atol=1e-4)
    assert torch.allclose(adain(content, content), content, atol=1e-5)
    assert torch.allclose(  # it is linear in each channel: what was above the mean stays there
        torch.sign(output - output.mean((-1, -2), keepdim=True)),
        torch.sign(content - content.mean((-1, -2), keepdim=True)),
    )


def test_a_pattern_that_matches_nothing_is_named():
    with (
        pytest.raises(UserError, match=r"'up_blocks.7.\*' matches none of 7"),
        tap_attention(small().part("denoiser"), ["up_blocks.7.*"]),
    ):
        pass
