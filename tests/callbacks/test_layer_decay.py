"""Block l of L learns at decay^(L - l), the embeddings at decay^L, the head at the rate itself."""

from __future__ import annotations

import peft
import pytest
import torch

from ftcli.callbacks.layer_decay import LayerDecay, find_factors
from ftcli.core.errors import UserError
from tests.callbacks.test_lora_plus import build_model


def test_factors_of_a_whole_model():
    factors = find_factors(build_model(), 0.5)
    found = {name: factors.get(name, 1.0) for name, _ in build_model().named_parameters()}
    assert found["model.embed_tokens.weight"] == 0.25
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.5
    assert found["model.layers.1.mlp.up_proj.weight"] == 1.0
    assert found["model.norm.weight"] == found["lm_head.weight"] == 1.0


def test_factors_of_an_adapter():
    model = peft.get_peft_model(build_model(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    factors = find_factors(model, 0.5)
    assert {name.split("layers.")[1][0]: f for name, f in factors.items()} == {"0": 0.5, "1": 1.0}
    assert len(factors) == 4


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UserError, match="no repeated blocks"):
        LayerDecay().check_model(torch.nn.Linear(2, 2))


def test_a_model_whose_blocks_are_frozen_is_refused():
    model = build_model().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    with pytest.raises(UserError, match="no trained parameter lies in a block"):
        LayerDecay().check_model(model)
