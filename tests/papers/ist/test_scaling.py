"""Damping of adapters, on every tuner that has a scale; and back to the last bit."""

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ftcli.core.errors import UserError
from ftcli.papers.ist.scaling import damp_adapters, find_scaled_layers
from tests.methods.tiny import load, logits, method, train, write_llama

ADDED = ["lora", "rslora", "adalora", "loha", "lokr", "gralora", "randlora", "shira"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = write_llama(tmp_path_factory.mktemp("llama"))

    def get(name: str):
        torch.manual_seed(1)
        model = method(name).prepare(load(folder))
        train(model)
        return load(folder), model

    return get


@pytest.mark.parametrize("name", ADDED)
def test_adapters_damped_to_nothing_leave_the_base(trained, name):
    base, model = trained(name)
    before = logits(model)
    with damp_adapters(model, [0, 1], 0.0):
        assert (logits(model) - logits(base)).abs().max() < 1e-5
    with damp_adapters(model, [1], 0.25):
        part = logits(model)
    with damp_adapters(model, [0, 1], 0.25):
        both = logits(model)
    assert torch.equal(logits(model), before)
    assert len({t.sum().item() for t in (before, part, both)}) == 3


def test_scales_come_back_bit_for_bit_also_after_an_error(trained):
    _, model = trained("lora")
    layers = find_scaled_layers(model, [0, 1])
    for number, layer in enumerate(layers):
        layer.scaling["default"] = 0.1 + number / 3  # not to be had back by division
    before = [dict(layer.scaling) for layer in layers]
    with pytest.raises(ZeroDivisionError), damp_adapters(model, [0], 0.3):
        changed = [a.scaling != b for a, b in zip(layers, before, strict=True)]
        assert changed == [True] * 7 + [False] * 7  # seven linears a block
        assert layers[0].scaling["default"] == before[0]["default"] * 0.3
        raise ZeroDivisionError
    assert [layer.scaling for layer in layers] == before


def test_dora_is_scaled_in_front_of_its_normalisation(trained):
    """m * (W + c s B A) / ||W + c s B A||, rows of the weight (DoRA, arXiv 2402.09353, eq. 5)."""
    _, model = trained("dora")
    layer = find_scaled_layers(model, [0])[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(5, a.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), damp_adapters(model, [0], 0.25):
        w = layer.get_base_layer().weight + 0.25 * 2.0 * b @ a
        m = layer.lora_magnitude_vector["default"].weight
        expected = x @ (m[:, None] * w / w.norm(dim=1, keepdim=True)).T
        assert (layer(x) - expected).abs().max() < 1e-5


def test_layers_of_gpt2_are_damped_too():
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=128)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    model = peft.get_peft_model(
        GPT2LMHeadModel(config),
        peft.LoraConfig(target_modules="all-linear", fan_in_fan_out=True, r=2, init_lora_weights=False),
    )  # fmt: skip
    with model.disable_adapter():
        base = logits(model)
    assert (logits(model) - base).abs().max() > 1e-3
    with damp_adapters(model, [0, 1], 0.0):
        assert (logits(model) - base).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["ia3", "oft", "vera", "full", "bitfit"])
def test_what_has_no_scale_is_refused(tmp_path, name):
    base = load(write_llama(tmp_path, bias=name == "bitfit"))
    model = method(name).prepare(base)
    with pytest.raises(UserError, match="cannot be damped"):
        find_scaled_layers(model, [0])
