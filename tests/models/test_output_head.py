"""Logits of chosen states are those of the model's own forward, whatever follows its output layer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ftcli.core.errors import UserError
from ftcli.models.output_head import compute_states_and_head

from . import zoo

KINDS = (
    "llama", "gemma2", "gemma3_text", "cohere2", "granite", "granitemoehybrid", "hyperclovax",
    "minicpm3", "falcon_h1", "recurrent_gemma", "nanochat", "openai-gpt", "bart",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models_own(kind):
    model = zoo.build(kind)
    ids = torch.tensor(zoo.documents((20,)))
    expected = model(input_ids=ids, use_cache=False).logits
    states, head = compute_states_and_head(model, {"input_ids": ids})
    logits = torch.cat([head(some) for some in states[0].split(7)])
    assert torch.equal(logits, expected[0]) or (logits - expected[0]).abs().max() < 1e-6
    weight = model.get_output_embeddings().weight
    wanted = torch.autograd.grad(expected.square().sum(), weight, retain_graph=True)[0]
    gradient = torch.autograd.grad(logits.square().sum(), weight)[0]
    assert (gradient - wanted).abs().max() < 1e-5 * wanted.abs().max()


class Behind(nn.Module):
    """A model whose forward does something to its logits."""

    def __init__(self, do):
        super().__init__()
        self.layer, self.do = nn.Linear(4, 8, bias=False), do

    def get_output_embeddings(self):
        return self.layer

    def forward(self, x, use_cache=False):
        return SimpleNamespace(logits=self.do(self.layer(x)))


def masked(logits):
    logits[:, :, 2:4] = -1e9
    return logits


def scaled_in_place(logits):
    return logits.mul_(3)


def biased_and_cut(logits):
    first, _ = (logits + torch.arange(8.0)).split([5, 3], dim=-1)
    return torch.tanh(first.float() / 2) * 2


@pytest.mark.parametrize("do", [masked, scaled_in_place, biased_and_cut, nn.Identity()])
def test_masks_writes_in_place_and_parts_are_followed(do):
    torch.manual_seed(0)
    model, x = Behind(do), torch.randn(1, 6, 4)
    expected = model(x).logits[0]
    _, head = compute_states_and_head(model, {"x": x})
    assert torch.equal(head(x[0]), expected)
    assert torch.equal(head(x[0, 1:3]), expected[1:3])
    assert head(x).shape == expected[None].shape


def test_logits_from_elsewhere_are_refused():
    with pytest.raises(UserError, match="cannot be followed|can be followed"):
        compute_states_and_head(
            Behind(lambda logits: torch.zeros(1, 6, 8)), {"x": torch.ones(1, 6, 4)}
        )


def test_an_error_behind_the_output_layer_leaves_nothing_behind():
    def fail(logits):
        raise ValueError("of the model")

    model = Behind(fail)
    with pytest.raises(ValueError, match="of the model"):
        compute_states_and_head(model, {"x": torch.ones(1, 6, 4)})
    assert not model.layer._forward_hooks and not model.layer._forward_pre_hooks
    model.do = nn.Identity()
    assert not compute_states_and_head(model, {"x": torch.ones(1, 6, 4)})[1].calls
