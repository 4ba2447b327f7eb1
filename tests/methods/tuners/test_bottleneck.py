"""Bottleneck adapters: where they stand, what they compute, how many parameters they train."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)  # fmt: skip

from ftcli.core.errors import UserError
from ftcli.methods.tuners.bottleneck import BottleneckConfig, closing_linears

from ..tiny import load, logits, method, train, trainable, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def bert():
    return BertModel(BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=40
    ))  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40))


def t5():
    return T5ForConditionalGeneration(T5Config(
        d_model=32, d_kv=16, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=2, vocab_size=40,
        decoder_start_token_id=0,
    ))  # fmt: skip


def test_one_behind_each_mlp_of_any_model(folder):
    assert closing_linears(load(folder)) == {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}
    assert closing_linears(bert()) == {f"encoder.layer.{i}.output.dense" for i in (0, 1)}
    assert closing_linears(gpt2()) == {f"transformer.h.{i}.mlp.c_proj" for i in (0, 1)}
    assert closing_linears(t5()) == {
        *(f"encoder.block.{i}.layer.1.DenseReluDense.wo" for i in (0, 1)),
        *(f"decoder.block.{i}.layer.2.DenseReluDense.wo" for i in (0, 1)),
    }


@pytest.mark.parametrize("make", [bert, gpt2, t5])
def test_identity_at_the_start_and_trained_afterwards(make):
    torch.manual_seed(0)
    base = make().eval()
    ids = {"input_ids": torch.arange(3, 15).reshape(2, 6)}
    if make is t5:
        ids["labels"] = ids["input_ids"]
    with torch.no_grad():
        before = base(**ids)[1 if make is t5 else 0]
        model = peft.get_peft_model(base, BottleneckConfig(reduction_factor=4)).eval()
        assert torch.equal(model(**ids)[1 if make is t5 else 0], before)
    model(**ids)[1 if make is t5 else 0].square().sum().backward()
    names = {
        n.split(".")[-2] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert names == {"bottleneck_up", "bottleneck_up_bias"}  # down has a gradient once up is not 0


def test_it_computes_its_formula(folder):
    model = method("bottleneck").prepare(load(folder))
    layer = model.get_base_model().model.layers[0].mlp.down_proj
    names = ("bottleneck_down", "bottleneck_down_bias", "bottleneck_up", "bottleneck_up_bias")
    down, b, up, c = (getattr(layer, name)["default"].data for name in names)
    for tensor in (down, b, up, c):
        nn.init.normal_(tensor)
    x = torch.randn(2, 3, 192)
    with torch.no_grad():
        y = layer.base_layer(x)
        wanted = y + torch.relu(y @ down.T + b) @ up.T + c
        assert torch.allclose(layer(x), wanted, atol=1e-5)
    assert down.shape == (128 // 16, 128)


def test_parameters_follow_the_formula(folder):
    model = method("bottleneck").prepare(load(folder))
    wanted = 2 * (2 * 128 * 8 + 8 + 128)
    assert sum(p.numel() for p in trainable(model).values()) == wanted


def test_roberta_large_has_3171840():
    with torch.device("meta"):
        size = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
        base = AutoModel.from_config(RobertaConfig(**size, num_attention_heads=16))
        model = peft.get_peft_model(base, BottleneckConfig())
    assert sum(p.numel() for p in trainable(model).values()) == 3171840


def test_saves_loads_disables_and_stands_on_quantised_weights(folder, tmp_path):
    for quantization in ("none", "nf4"):
        how = method("bottleneck")
        base = logits(load(folder, quantization))
        model = how.prepare(load(folder, quantization))
        train(model)
        after = logits(model)
        assert (after - base).abs().max() > 1e-4
        with model.disable_adapter():
            assert torch.equal(logits(model), base)
        how.save(model, tmp_path / quantization)
        again = peft.PeftModel.from_pretrained(load(folder, quantization), tmp_path / quantization)
        assert torch.equal(logits(again), after)


def test_it_is_no_change_of_weights(folder):
    how = method("bottleneck")
    with pytest.raises(UserError, match="not a change of a weight"):
        how.merge(how.prepare(load(folder)))


def test_a_factor_below_zero_is_refused(folder):
    with pytest.raises(UserError, match="must be positive"):
        method("bottleneck", reduction_factor=0).prepare(load(folder))
