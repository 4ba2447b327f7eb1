"""What a LoRA in GGUF holds is the change that was trained; another adapter is refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ftcli.core.errors import UserError
from ftcli.methods.peft import Peft
from ftcli.serving.gguf_lora import Factors, permute_factors, read_factors


def tuned(model=None, **options) -> SimpleNamespace:
    """A model with an adapter that is not zero."""
    torch.manual_seed(0)
    if model is None:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=64,
            )
        )  # fmt: skip
    method = Peft(**({"r": 4, "lora_alpha": 6} | options))
    model = method.prepare(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return SimpleNamespace(model=model, method=method)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 40}},
    ],
)
def test_changes_are_those_that_merging_adds(options):
    run = tuned(**options)
    trained = read_factors(run)
    before = {name: weight.clone() for name, weight in _bases(run.model).items()}
    merged = dict(run.model.merge_and_unload().named_parameters())
    assert trained.keys() == before.keys()
    for name, factors in trained.items():
        torch.testing.assert_close(factors.left @ factors.right, merged[name] - before[name])


def test_weights_that_are_stored_transposed_have_factors_too():
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64))
    run = tuned(model, target_modules=["c_attn"], fan_in_fan_out=True)
    trained = read_factors(run)
    before = {name: weight.clone() for name, weight in _bases(run.model).items()}
    merged = dict(run.model.merge_and_unload().named_parameters())
    assert len(trained) == 2
    for name, factors in trained.items():
        torch.testing.assert_close(factors.left @ factors.right, merged[name] - before[name])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_A"),
        ({"trainable_token_indices": [1, 2]}, "token_adapter"),
        ({"config_class": "peft.LoHaConfig", "r": 4, "alpha": 4, "lora_alpha": None}, "hada"),
    ],
)
def test_what_a_lora_of_llama_cpp_cannot_hold_is_refused_with_the_way_out(options, named):
    options = {key: value for key, value in options.items() if value is not None}
    if "config_class" in options:
        torch.manual_seed(0)
        run = _loha(**options)
    else:
        model = None
        if options.get("bias") == "all" or "lora_bias" in options:
            model = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                    num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
                    attention_bias=True, mlp_bias=True,
                )
            )  # fmt: skip
        run = tuned(model, **options)
    with pytest.raises(UserError, match=named) as caught:
        read_factors(run)
    assert "--to gguf" in str(caught.value.fix) and "merges" in str(caught.value.fix)


def test_rearranged_rows_columns_and_transposes_are_followed():
    left, right = torch.randn(6, 2), torch.randn(2, 5)
    factors = Factors(left, right, left @ right, 1.0)
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    turned = torch.tensor([3, 1, 0, 5])
    for rearrange in (lambda t: t[turned], lambda t: t[:, [4, 2]], lambda t: t.T, lambda t: t):
        expected = rearrange(factors.change)
        a, b = permute_factors(factors, expected, rearrange(row), rearrange(column))
        torch.testing.assert_close(a @ b, expected)


@pytest.mark.parametrize("rearrange", [lambda t: 2 * t, lambda t: t.reshape(3, 10), torch.tril])
def test_what_factors_cannot_follow_is_refused(rearrange):
    left, right = torch.randn(6, 2), torch.randn(2, 5)
    factors = Factors(left, right, left @ right, 1.0)
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    with pytest.raises(UserError, match="cannot follow"):
        permute_factors(factors, rearrange(factors.change), rearrange(row), rearrange(column))


def _loha(**options) -> SimpleNamespace:
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=64,
        )
    )  # fmt: skip
    method = Peft(**options)
    return SimpleNamespace(model=method.prepare(model), method=method)


def _bases(model) -> dict[str, torch.Tensor]:
    """The frozen weights under the adapter, by their names in the plain model."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".base_layer.weight" in name
    }
