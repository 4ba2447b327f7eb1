"""The cost model against torch's counter of FLOPs, and against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from ftcli.papers.greentrainer.flops import build_flop_counter
from ftcli.papers.greentrainer.operators import OperatorRecorder

B, L, D, F, V = 2, 24, 32, 80, 96
IDS = torch.arange(B * L).reshape(B, L)


def llama(**options):
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "sdpa"}
    sizes = {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": 3, "vocab_size": V}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **options))


def opt():
    return OPTForCausalLM(OPTConfig(
        hidden_size=D, word_embed_proj_dim=D, ffn_dim=F, num_hidden_layers=2,
        num_attention_heads=4, vocab_size=V, dropout=0.0, attn_implementation="eager",
    ))  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_embd=D, n_layer=2, n_head=4, vocab_size=V, n_positions=L))


MODELS = {
    "llama": llama,
    "llama_tied": lambda: llama(tie_word_embeddings=True),
    "llama_biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "opt_eager": opt,
    "gpt2": gpt2,
}


def record(model):
    recorder = OperatorRecorder(model)
    with torch.no_grad(), recorder:
        model(input_ids=IDS)
    return recorder.collect()


def count(model, names):
    """FLOPs of forward and backward pass, halved, with these parameters trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        parameter.grad = None
    with build_flop_counter() as forward:
        loss = model(input_ids=IDS).logits.sum()
    with build_flop_counter() as backward:
        loss.backward()
    return forward.get_total_flops() / 2, backward.get_total_flops() / 2


def count_elementwise(model, costs):
    """Operations of norms, biases and tables, which torch does not count: forward, of tensors, and on the path."""
    own = dict(zip(costs.names, costs.own, strict=True))
    tensors = sum(own[name] for name, p in model.named_parameters() if p.ndim == 1)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            tied = module.weight is model.lm_head.weight
            tensors += own[f"{name}.weight"] - (B * L * D * V if tied else 0)
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    two = sum(getattr(m, "bias", None) is not None for m in norms)  # weight and bias at once
    return tensors - two * B * L * D, tensors, len(norms) * B * L * D


@pytest.mark.parametrize("name", MODELS)
def test_all_tensors_cost_what_torch_counts_and_the_elementwise_operators(name):
    model = MODELS[name]().eval()
    costs = record(model)
    assert set(costs.names) == {n for n, _ in model.named_parameters()}
    forward, backward = count(model, costs.names)
    elementwise, tensors, path = count_elementwise(model, costs)
    every = np.ones(len(costs.names), dtype=bool)
    assert costs.forward == forward + elementwise
    assert costs.compute_backward(every) == backward + tensors + path


@pytest.mark.parametrize("name", MODELS)
def test_any_selection_costs_at_most_what_the_model_says(name):
    """Autograd leaves out the operator of the first selected tensor, and projections beside it."""
    model = MODELS[name]().eval()
    costs, draws = record(model), np.random.default_rng(1)
    block = max(B * L * D * (2 * F + 4 * D), B * L * D * V)
    for share in (0.03, 0.1, 0.3, 0.6):
        selected = draws.random(len(costs.names)) < share
        selected[draws.integers(len(selected))] = True
        names = {n for n, on in zip(costs.names, selected, strict=True) if on}
        excess = costs.compute_backward(selected) - count(model, names)[1]
        assert 0 <= excess <= block + 0.03 * costs.compute_backward(selected), names


def test_a_llama_block_by_hand():
    costs = record(llama(tie_word_embeddings=True).eval())
    own = dict(zip(costs.names, costs.own, strict=True))
    path = dict(zip(costs.names, costs.path, strict=True))
    block, tokens = "model.layers.1", B * L
    assert (
        own[f"{block}.self_attn.q_proj.weight"]
        == path[f"{block}.self_attn.q_proj.weight"]
        == tokens * D * D
    )
    assert (
        own[f"{block}.mlp.up_proj.weight"] == path[f"{block}.mlp.up_proj.weight"] == tokens * D * F
    )
    assert (
        own[f"{block}.input_layernorm.weight"]
        == path[f"{block}.input_layernorm.weight"]
        == tokens * D
    )
    value = (
        f"{block}.self_attn.v_proj.weight"  # half the width; attention lies on the path behind it
    )
    assert own[value] == tokens * D * D / 2
    assert path[value] == tokens * D * D / 2 + 2.5 * (2 * B * L * L * D)
    table = "model.embed_tokens.weight"  # the head too, whose path lies behind the last norm
    assert own[table] == tokens * D * V + tokens * D and path[table] == 0
    assert path["model.norm.weight"] == tokens * D + tokens * D * V
    assert costs.names[0] == table and costs.names[-1] == "model.norm.weight"


def test_the_order_is_that_of_the_forward_pass():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.unused, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.second(self.first(x))

    model = Backwards()
    recorder = OperatorRecorder(model)
    with torch.no_grad(), recorder:
        model(torch.ones(5, 3))
    costs = recorder.collect()
    assert costs.names == ("first.weight", "first.bias", "second.weight", "second.bias")
    assert costs.own.tolist() == [60, 20, 40, 10] and costs.path.tolist() == [60, 0, 40, 0]
    assert costs.forward == 130


def test_weights_that_are_cast_are_still_those_of_their_parameter():
    model = llama().eval()
    plain = record(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = record(model)
    assert cast.names == plain.names and np.array_equal(cast.own, plain.own)


def test_the_counter_counts_attention_on_a_cpu():
    states = [torch.ones(1, 2, L, 8, requires_grad=True) for _ in range(3)]
    with build_flop_counter() as counter:
        out = nn.functional.scaled_dot_product_attention(*states, is_causal=True)
    assert counter.get_total_flops() == 2 * 2 * L * L * (8 + 8)
    with build_flop_counter() as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2.5 * 2 * 2 * L * L * (8 + 8)
