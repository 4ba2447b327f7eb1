"""The shim and the bases, by a smallest tuner of our own: a trained bias after a linear layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import peft
import pytest
import torch
from torch import nn

from ftcli.methods.tuners.base import Tuner, TunerLayer, register

from ..tiny import load, logits, write_llama


@dataclass
class NudgeConfig(peft.PeftConfig):
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "down_proj"])

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = peft.PeftType.NUDGE


class NudgeLinear(TunerLayer):
    adapter_layer_names = ("nudge_row",)

    def add(self, adapter, config):
        self.nudge_row[adapter] = nn.Parameter(torch.zeros(self.get_base_layer().out_features, 1))

    def delta(self, adapter):
        return self.nudge_row[adapter] @ torch.ones(1, self.get_base_layer().in_features)

    def forward(self, x):
        out = self.base_layer(x)
        for adapter in self.adapters_in_effect():
            out = out + (x.sum(-1, keepdim=True) @ self.nudge_row[adapter].T).to(out.dtype)
        return out


class NudgeModel(Tuner):
    prefix = "nudge_"
    tuner_layer_cls = NudgeLinear
    layers = {nn.Linear: NudgeLinear}  # noqa: RUF012


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    register("nudge", NudgeConfig, NudgeModel)
    register("nudge", NudgeConfig, NudgeModel)  # again: no error
    return write_llama(tmp_path_factory.mktemp("llama"))


def nudged(folder, quantization="none"):
    model = peft.get_peft_model(load(folder, quantization), NudgeConfig())
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.02)
    return model


def test_only_the_adapter_is_trainable_and_it_saves_and_loads(folder, tmp_path):
    model = nudged(folder)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 4 and all("nudge_row" in name for name in names)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_disabled_is_the_base_and_merged_is_the_sum(folder):
    model, base = nudged(folder), logits(load(folder))
    out = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert (out - base).abs().max() > 1e-3
    model.merge_adapter()
    assert (logits(model) - out).abs().max() < 1e-5
    model.unmerge_adapter()
    assert (logits(model) - out).abs().max() < 1e-5
    assert (logits(model.merge_and_unload()) - out).abs().max() < 1e-5


def test_stands_on_quantised_linears_and_refuses_other_layers(folder):
    assert torch.isfinite(logits(nudged(folder, "nf4"))).all()
    with pytest.raises(TypeError, match="NudgeModel cannot adapt Embedding"):
        peft.get_peft_model(load(folder), NudgeConfig(target_modules=["embed_tokens"]))
