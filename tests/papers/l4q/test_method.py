"""L4Q in a model: step 0, what moves, both stages, export, adapters one at a time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.l4q.measures import load_integers
from ftcli.papers.l4q.method import export_integers, l4q_layers
from ftcli.papers.l4q.optimizer import ScaleRates
from ftcli.papers.l4q.quantiser import initial_scale, round_weight
from tests.methods.tiny import load, logits, loss_of, method, trainable, write_gpt2, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def prepared(folder, **options):
    torch.manual_seed(1)
    return method("l4q", **{"bits": 3, "group_size": 32} | options).prepare(load(folder))


def fit(model, steps=3):
    """A few steps at rates at which no scale reaches its floor."""
    optimizer = ScaleRates(lr=1e-2, scale_lr=1e-4, offset_lr=1e-4).build(
        trainable(model).items(), "cpu"
    )
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return model


def test_at_step_0_it_is_the_base_rounded_without_clipping(folder):
    rounded = load(folder)
    for linear in Anatomy(rounded).block_linears:
        weight = linear.module.weight
        scale = initial_scale(weight, 3, 32)
        weight.data = round_weight(weight.data, scale, torch.zeros_like(scale), 3).weight
    model = prepared(folder)
    assert (logits(model) - logits(rounded)).abs().max() < 2e-6
    assert (logits(model) - logits(load(folder))).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(load(folder)))


def test_factors_scales_and_offsets_move_and_the_base_does_not(folder):
    model = prepared(folder)
    count = sum(
        4 * (li.in_features + li.out_features) + 2 * li.weights // 32
        for li in Anatomy(load(folder)).block_linears
    )
    assert sum(p.numel() for p in trainable(model).values()) == count
    assert {p.dim() for n, p in trainable(model).items() if "scale" in n or "offset" in n} == {1}
    before, first = {n: t.clone() for n, t in model.state_dict().items()}, loss_of(model).item()
    fit(model)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == trainable(model).keys()
    assert loss_of(model).item() < first


def test_offsets_that_are_not_learned_stay_zero(folder):
    model = prepared(folder, learn_offset=False)
    assert not any("offset" in name for name in trainable(model))
    fit(model)
    assert all(layer.l4q_offset["default"].abs().max() == 0 for layer in l4q_layers(model).values())


@pytest.mark.parametrize("write", [write_llama, write_gpt2])
def test_exported_integers_are_the_trained_model(write, tmp_path):
    folder = write(tmp_path / "model")
    model = fit(prepared(folder))
    expected = logits(model)
    written = export_integers(model, tmp_path / "model.safetensors")
    plain = load(folder)
    for parameter in plain.parameters():
        parameter.data.zero_()
    load_integers(plain, load_file(tmp_path / "model.safetensors"), 3)
    assert (logits(plain) - expected).abs().max() < 1e-5
    names = [n for n in written if n.endswith(".codes")]
    assert len(names) == len(l4q_layers(model)) and not any("l4q" in n for n in written)
    layer = l4q_layers(model.get_base_model())[names[0].removesuffix(".codes")]
    assert written[names[0]].numel() == layer.base.numel() * 3 / 8


def test_stages_lora_beside_the_rounded_base_then_rounded_with_it(folder):
    how = method("l4q", bits=3, group_size=32, warmup_steps=2)
    model = how.prepare(load(folder)).train()
    for step, warming in ((0, True), (1, True), (2, False)):
        how.before_step(State(None, model, 4, step=step))
        assert {m.warming_up for m in l4q_layers(model).values()} == {warming}
    how.before_step(State(None, model, 4, step=0))
    torch.manual_seed(3)
    for layer in l4q_layers(model).values():
        torch.nn.init.normal_(layer.l4q_B["default"], std=1e-2)
    name = "base_model.model.model.layers.0.mlp.down_proj"
    layer = l4q_layers(model)[name]
    a, b, scale, offset, alpha, bits = layer.parts("default")
    x = torch.randn(5, 192)
    frozen = x @ round_weight(layer.base, scale, offset, bits).weight.T
    assert torch.allclose(layer(x), frozen + alpha * x @ a.T @ b.T, atol=1e-5)
    loss_of(model).backward()
    moved = {n.split(".")[-2] for n, p in trainable(model).items() if p.grad is not None}
    assert moved == {"l4q_A", "l4q_B"}
    merged = round_weight(layer.base + alpha * b @ a, scale, offset, bits).weight
    assert torch.allclose(layer.eval()(x), x @ merged.T, atol=1e-5)  # evaluated as deployed


def test_one_adapter_is_active_at_a_time_on_the_same_base(folder):
    model = fit(prepared(folder))
    first = logits(model)
    model.add_adapter("second", model.peft_config["default"])
    model.set_adapter("second")
    fresh = logits(model)
    assert (fresh - first).abs().max() > 1e-3
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with pytest.raises(ValueError, match="one at a time"):
        model.base_model.set_adapter(["default", "second"])


def test_merging_is_undone_to_the_bit(folder):
    model = fit(prepared(folder))
    expected = logits(model)
    model.merge_adapter()
    assert (logits(model) - expected).abs().max() < 1e-5
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)


def test_on_a_half_precision_base_scales_are_float32_and_clip_nothing(folder):
    model = method("l4q", group_size=64).prepare(load(folder, dtype="bfloat16"))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    for layer in l4q_layers(model).values():
        ratio = layer.rounded("default").ratio
        assert ratio.min() >= -8 and ratio.max() <= 7


def test_scales_have_rates_of_their_own(folder, caplog):
    built = ScaleRates(lr=1e-2, scale_lr=1e-4, offset_lr=1e-5, weight_decay=0.1)
    groups = built.build(trainable(prepared(folder)).items(), "cpu").param_groups
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (1e-2, 0.1, 28), (1e-4, 0.0, 14), (1e-5, 0.0, 14),
    ]  # fmt: skip
    built.setup(SimpleNamespace(model=prepared(folder), dir=None))
    assert "ignored" not in caplog.text
    built.setup(SimpleNamespace(model=method("lora").prepare(load(folder)), dir=None))
    assert "scale_lr and offset_lr are ignored" in caplog.text


def test_quantised_bases_and_wrong_options_are_refused(folder):
    with pytest.raises(UserError, match="quantised already"):
        method("l4q", group_size=64).prepare(load(folder, "nf4"))
    with pytest.raises(UserError, match="bits=5 has no packing"):
        method("l4q", bits=5).prepare(load(folder))
    with pytest.raises(UserError, match="group_size=128 does not divide rows of 192"):
        method("l4q", group_size=128).prepare(load(folder))


def test_the_papers_counts_on_the_meta_device():
    meta = CausalLMSource("owner/name", architecture="llama1_7b").build_meta_model()
    model = method("l4q", group_size=128).prepare(meta)
    named = trainable(model).items()
    assert sum(p.numel() for n, p in named if "l4q_A" in n or "l4q_B" in n) == 9_994_240
    assert sum(p.numel() for n, p in named if "scale" in n or "offset" in n) == 101_187_584
