"""LoRA+: B moves at `ratio` times the rate of A; a method without A and B is refused in one message."""

from __future__ import annotations

from types import SimpleNamespace

import peft
import pytest
import torch
import transformers as tf

from ftcli.callbacks.lora_plus import LoRAPlus, find_factors
from ftcli.core.errors import UserError
from ftcli.optimizers.library import LibraryOptimizer


def build_model() -> tf.LlamaForCausalLM:
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(
        tf.LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=32,
                       intermediate_size=24, num_key_value_heads=2)
    )  # fmt: skip


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "embed_tokens"]])
def test_a_step_of_b_is_ratio_times_that_of_a(targets):
    model = peft.get_peft_model(build_model(), peft.LoraConfig(r=2, target_modules=targets))
    wrapper = LibraryOptimizer("torch.optim.SGD", lr=0.1)
    optimizer = wrapper.build(trained(model), "cpu")
    LoRAPlus(16.0).setup(SimpleNamespace(model=model, optimizer_builder=wrapper))
    before = {name: p.detach().clone() for name, p in trained(model)}
    for _, parameter in trained(model):
        parameter.grad = torch.ones_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * 0.5  # as the loop sets it from the schedule
    optimizer.step()
    for name, parameter in trained(model):
        rate = 0.05 * (16.0 if "_B" in name else 1.0)
        torch.testing.assert_close(
            before[name] - parameter.detach(), torch.full_like(parameter, rate)
        )
    assert optimizer.param_groups[0]["initial_lr"] == 0.1  # the rate that the log shows


def test_methods_without_a_and_b_are_refused():
    model = build_model()
    with pytest.raises(UserError, match="trains no such pair") as caught:
        LoRAPlus().check_model(model)
    assert "method=lora" in str(caught.value)
    with pytest.raises(UserError, match="no such pair"):
        find_factors(["layer.0.table_B", "layer.1.table_A"], 16.0)
