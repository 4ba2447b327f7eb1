"""Experts and routers are found from structure, in models that keep them in different ways."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftcli.models.anatomy import Anatomy
from ftcli.models.experts import find_expert_weights, find_router_weights

from . import zoo


def meta(kind):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(zoo.small_config(kind))


@pytest.mark.parametrize(
    ("kind", "stacks", "routers"),
    [
        ("gpt_oss", {"gate_up_proj", "down_proj"}, {"mlp.router.weight"}),
        ("mixtral", {"gate_up_proj", "down_proj"}, {"mlp.gate.weight"}),
        ("jetmoe", {"weight"}, {"mlp.router.layer.weight", "self_attention.experts.router.layer.weight"}),
        ("dbrx", {"w1", "v1", "w2"}, {"ffn.router.layer.weight"}),
        ("llama4_text", {"gate_up_proj", "down_proj"}, {"feed_forward.router.weight"}),
        ("afmoe", {"gate_up_proj", "down_proj"}, {"mlp.router.gate.weight"}),
        ("llama", set(), set()),
        ("xlnet", set(), set()),  # three dimensions, but heads and no experts
        ("recurrent_gemma", set(), set()),
    ],
)  # fmt: skip
def test_what_is_found(kind, stacks, routers):
    model = meta(kind)
    weights = find_expert_weights(model)
    assert {stack.name.rpartition(".")[2] for stack in weights} == stacks
    assert all(stack.experts == zoo.EXPERTS for stack in weights)
    layers = {name.split(".", 3)[3] for name in find_router_weights(model)}
    assert layers == routers


def test_every_expert_is_counted():
    """gate, up and down of 4 experts in 2 layers: 4 x 3 x 64 x 96 each."""
    model = meta("mixtral")
    assert (
        sum(stack.parameter.numel() for stack in find_expert_weights(model)) == 2 * 4 * 3 * 64 * 96
    )
    assert Anatomy(model).parameters() == sum(p.numel() for p in model.parameters())
