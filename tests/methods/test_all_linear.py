"""All linear layers: experts with them, routers and layers that are bypassed without them."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftcli.core.errors import UserError
from ftcli.methods.all_linear import BYPASSED, LOST, RENAMED, ROUTER, shortest_suffixes
from ftcli.methods.left_out import list_left_out, summarise
from ftcli.methods.peft import Peft
from ftcli.models.causal_lm import CausalLMSource
from tests.models import zoo

from .tiny import trainable


def prepared(kind, model=None, **options):
    method = Peft(r=4, **options)
    return method, method.prepare(model or zoo.build(kind))


def reached(model) -> set[str]:
    """Ends of the names of what is trained, without layer numbers."""
    names = {name.split(".lora_")[0].replace(".base_layer", "") for name in trainable(model)}
    return {name.split("layers.")[-1].partition(".")[2] for name in names}


def why(method, end):
    return next((why for name, why in method.left_out.items() if name.endswith(end)), None)


@pytest.mark.parametrize("kind", ["gpt_oss", "granitemoe", "qwen2_moe", "llama4_text", "jamba"])
def test_experts_are_reached_and_routers_are_not(kind):
    method, model = prepared(kind)
    assert any(name.endswith(".experts") for name in reached(model))
    assert ROUTER in method.left_out.values()
    assert not any("router" in name or name.endswith(".gate") for name in reached(model))


def test_dense_and_shared_layers_beside_experts_are_reached():
    """PEFT alone takes their names for the experts' and gives them no adapter."""
    _, model = prepared("deepseek_v3")
    dense = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    shared = {f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")}
    assert dense | shared <= reached(model)
    assert {item.reason for item in list_left_out(model, {})} == {ROUTER}


def test_layers_whose_adapter_peft_would_lose_are_left_out_or_refused():
    method, _ = prepared("laguna")
    assert why(method, "shared_experts.up_proj.weight") == LOST
    with pytest.raises(UserError, match="does not find it"):
        prepared("laguna", target_modules=["shared_experts.up_proj"])


def test_layers_that_share_a_weight_are_not_merged():
    method, model = prepared("zamba")
    with pytest.raises(UserError, match="share the weight"):
        method.merge(model)


def test_what_peft_refuses_is_left_out():
    for kind in ("mamba2", "falcon_h1", "nemotron_h"):
        method, model = prepared(kind)
        assert trainable(model) and not any("out_proj" in name for name in trainable(model))
        assert why(method, "out_proj.weight")


def test_layers_whose_weight_is_read_directly_are_left_out():
    """Jamba multiplies by `dt_proj.weight`: an adapter there would do nothing until it is merged."""
    method, model = prepared("jamba")
    assert why(method, "dt_proj.weight") == BYPASSED
    assert not any("dt_proj" in name for name in trainable(model))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lora_dropout": 0.1}, "lora_dropout"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
        ({"exclude_modules": ["experts"]}, "exclude_modules"),
    ],
)
def test_experts_that_an_option_rules_out_are_named(options, reason):
    method, model = prepared("gpt_oss", **options)
    assert not any("experts" in name for name in trainable(model))
    assert reason in why(method, "experts.gate_up_proj")
    assert "experts" in summarise(list_left_out(model, method.left_out))


def test_renamed_layers_are_named_where_no_parameter_can_stand_for_them():
    method, model = prepared("deepseek_v3", lora_dropout=0.1)
    assert why(method, "shared_experts.up_proj.weight") == RENAMED
    assert not any("experts" in name for name in trainable(model))


def test_a_plan_leaves_out_what_the_quantised_model_will(tmp_path):
    source = CausalLMSource(path=str(zoo.write("deepseek_v3", tmp_path)), quantization="nf4")
    loaded, planned = (
        Peft(r=4).prepare(model) for model in (source.load("cpu"), source.build_meta_model())
    )
    assert trainable(planned).keys() == trainable(loaded).keys()
    assert any("experts" in name for name in trainable(loaded))  # stacks are not quantised


def test_other_adapters_name_the_experts_they_leave_out():
    method = Peft(config_class="peft.LoHaConfig", r=4)
    method.prepare(zoo.build("gpt_oss"))
    assert "method=lora" in why(method, "experts.down_proj")


def test_no_experts_on_request():
    method, model = prepared("gpt_oss", target_parameters=[])
    assert not any("experts" in name for name in trainable(model))
    assert any("experts" in item.pattern for item in list_left_out(model, method.left_out))


def test_a_plain_model_keeps_all_linear_as_it_was():
    method, model = prepared("llama")
    assert method.left_out == {} and list_left_out(model) == []
    assert not method.describe().get("target_parameters")


def test_rank_and_alpha_are_those_of_the_job():
    """PEFT's own conversion doubles both for a fused gate_up_proj."""
    _, model = prepared("mixtral", lora_alpha=8)
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    assert {(m.r["default"], m.scaling["default"]) for m in layers} == {(4, 2.0)}


@pytest.mark.parametrize("kind", ["deepseek_v3", "gpt_oss", "laguna"])
def test_plain_peft_loads_what_was_trained(kind, tmp_path):
    zoo.write(kind, tmp_path / "base")

    def load():
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()

    method, model = prepared(kind, load())
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p.normal_(std=0.1)
    method.save(model, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(load(), tmp_path / "adapter").eval()
    ids = torch.tensor(zoo.documents([12]))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, expected)
        torch.testing.assert_close(
            method.merge(model)(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4
        )


def test_suffixes_are_the_shortest_that_mean_nothing_else():
    names = ["a.0.mlp.up", "a.0.shared.up", "a.1.mlp.up", "a.0.mlp.down"]
    assert shortest_suffixes([names[0], names[2]], names) == ["mlp.up"]
    assert shortest_suffixes([names[3]], names) == ["down"]
    assert shortest_suffixes([names[0]], names) == ["0.mlp.up"]
