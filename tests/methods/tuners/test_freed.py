"""A layer whose weight an adapter has taken over: what merging puts back, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftcli.methods.tuners.freed import FreedWeightLayer


class Doubled(FreedWeightLayer):
    """Holds W itself; an adapter multiplies with 2 W."""

    adapter_layer_names = ("doubled_W",)
    doubled_W: nn.ParameterDict

    def add(self, adapter, config):
        self.doubled_W[adapter] = nn.Parameter(2 * self.dense.detach())

    def compute_weight(self, adapter):
        return self.doubled_W[adapter].float()

    def compute_base_weight(self):
        return self.doubled_W["default"].float() / 2 if self.is_freed else None

    def forward(self, x):
        active = self.adapters_in_effect()
        if not active:
            return self.base_layer(x)
        return self.add_bias(nn.functional.linear(x, self.doubled_W[active[0]]))


def layer(kind, dtype=torch.float32) -> Doubled:
    torch.manual_seed(0)
    base = nn.Linear(6, 4) if kind == "linear" else Conv1D(4, 6)
    made = Doubled(base.to(dtype))
    made.update_layer("default", None)
    made.release_weight()
    return made


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_merging_puts_a_dense_weight_back_and_is_undone(kind):
    made, x = layer(kind), torch.randn(3, 6)
    assert made.shape == (4, 6) and made.is_freed and made.transposed == (kind == "conv1d")
    expected = made(x)
    made.merge()
    assert not made.is_freed and made.dense.shape == (4, 6)
    assert torch.allclose(made(x), expected, atol=1e-6)
    made.unmerge()
    assert made.is_freed and torch.equal(made(x), expected)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_unloading_returns_the_plain_layer_with_or_without_the_adapter(kind):
    x = torch.randn(3, 6)
    for merge, factor in ((True, 2), (False, 1)):
        made = layer(kind)
        weight, bias = made.doubled_W["default"] / 2, made.get_base_layer().bias
        plain = made.unload_and_optionally_merge_module(merge, True, None)
        assert plain is made.get_base_layer()
        assert torch.allclose(plain(x), x @ (factor * weight).T + bias, atol=1e-6)


def test_a_merged_weight_is_in_the_dtype_of_the_base():
    made = layer("linear", torch.bfloat16)
    made.merge()
    assert made.dense.dtype == torch.bfloat16


def test_a_second_adapter_and_values_that_are_not_finite_are_refused():
    made = layer("linear")
    made.doubled_W["second"] = nn.Parameter(made.doubled_W["default"].detach().clone())
    with pytest.raises(ValueError, match="merge one"):
        made.merge(adapter_names=["default", "second"])
    made = layer("linear")
    made.doubled_W["default"].data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        made.merge(safe_merge=True)
    assert made.is_freed
