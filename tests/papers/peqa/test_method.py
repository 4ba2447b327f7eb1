"""PEQA: integers never move, scales do; step 0 is the rounded model; tasks are sets of scales."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.papers.peqa.method import PeqaConfig, PeqaLinear
from ftcli.papers.peqa.packed import quantise, stored_bytes
from ftcli.papers.peqa.packed_linear import PackedLinear
from tests.methods.tiny import load, logits, loss_of, method, train, trainable, write_llama
from tests.methods.tuners.kinds import KINDS, build, output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def packed(model) -> list[PackedLinear]:
    return [m for m in model.modules() if isinstance(m, PackedLinear)]


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("group_size", [None, 32])
def test_at_step_0_it_is_the_model_rounded_to_nearest(folder, bits, group_size):
    rounded = load(folder)
    for linear in Anatomy(rounded).block_linears:
        weight = linear.module.weight
        weight.data = quantise(weight, bits, group_size, "mse").weight()
    model = method("peqa", bits=bits, group_size=group_size).prepare(load(folder))
    assert (logits(model) - logits(rounded)).abs().max() < 2e-6
    assert (logits(model) - logits(load(folder))).abs().max() > 1e-2


def test_training_moves_scales_and_no_integer(folder):
    model = method("peqa", bits=3).prepare(load(folder))
    assert sum(p.numel() for p in trainable(model).values()) == 1792
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    first = loss_of(model).item()
    train(model, steps=3)
    after = model.state_dict()
    moved = {n for n in after if not torch.equal(after[n], before[n])}
    assert moved == {n for n in after if "peqa_scale" in n} and len(moved) == 14
    assert loss_of(model).item() < first


def test_trained_weights_over_their_scales_are_integers(folder):
    how = method("peqa", bits=3)
    model = how.prepare(load(folder))
    train(model)
    scales = [
        (layer.base_layer.scale + layer.peqa_scale["default"].view(-1, 1)).detach()
        for layer in model.modules()
        if isinstance(layer, PeqaLinear)
    ]
    integers = [layer.integers(torch.float32) for layer in packed(model)]
    merged = how.merge(model)
    linears = [linear.module for linear in Anatomy(merged).block_linears]
    assert len(linears) == 14
    for linear, scale, whole in zip(linears, scales, integers, strict=True):
        assert type(linear) is nn.Linear
        assert ((linear.weight / scale) - whole).abs().max() < 1e-5


def test_merging_warns_that_the_model_is_no_longer_small(folder, caplog):
    how = method("peqa")
    how.merge(how.prepare(load(folder)))
    assert "keep the adapter for the small size" in caplog.text


def test_trainables_are_the_sum_of_out_times_groups(folder):
    for group_size in (None, 64, 32):
        model = method("peqa", group_size=group_size).prepare(load(folder))
        linears = Anatomy(load(folder)).block_linears
        expected = sum(
            li.out_features * li.in_features // (group_size or li.in_features) for li in linears
        )
        assert sum(p.numel() for p in trainable(model).values()) == expected


def test_the_step_is_that_of_autograd_through_the_dense_weight(folder):
    """One PEQA layer's gradient inside the model, against the gradient of its dense weight."""
    model = method("peqa", bits=4, group_size=32).prepare(load(folder))
    loss_of(model.train()).backward()
    name = "model.layers.0.mlp.down_proj"
    layer = model.get_submodule(f"base_model.model.{name}")
    dense = method("peqa", bits=4, group_size=32)
    plain = dense.merge(dense.prepare(load(folder)))
    weight = plain.get_submodule(name).weight.requires_grad_()
    loss_of(plain.train()).backward()
    products = (weight.grad * layer.base_layer.integers(torch.float32)).unflatten(1, (-1, 32))
    assert (layer.peqa_scale["default"].grad - products.sum(-1).flatten()).abs().max() < 1e-6


def test_two_tasks_are_two_sets_of_scales_on_one_integer_base(folder, tmp_path):
    how = method("peqa")
    model = how.prepare(load(folder))
    rounded = logits(model)
    train(model)
    first = logits(model)
    how.save(model, tmp_path / "first")
    model.add_adapter("second", model.peft_config["default"])
    bases = [id(layer.weight) for layer in packed(model)]
    model.set_adapter("second")
    assert torch.equal(logits(model), rounded)  # a new task starts from the rounded base
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("peqa_scale.second"):
            nn.init.normal_(parameter, std=1e-3)
    second = logits(model)
    model.set_adapter("default")
    assert torch.equal(logits(model), first) and (first - second).abs().max() > 1e-3
    assert [id(layer.weight) for layer in packed(model)] == bases
    with model.disable_adapter():
        assert torch.equal(logits(model), rounded)
    again = peft.PeftModel.from_pretrained(load(folder), tmp_path / "first")
    assert torch.equal(logits(again), first)


def test_what_is_saved_is_scales(folder, tmp_path):
    how = method("peqa")
    model = how.prepare(load(folder))
    assert all(name.endswith("peqa_scale") for name in how.get_trained_tensors(model))
    how.save(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["bits"] == 4
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * 1792 + 4000


def test_scales_are_vectors_which_optimizers_do_not_decay(folder):
    model = method("peqa", group_size=32).prepare(load(folder))
    assert {p.dim() for p in trainable(model).values()} == {1}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_other_architectures(kind):
    base = build(kind)
    before, plain = output(base), {n: tuple(p.shape) for n, p in base.named_parameters()}
    how = method("peqa", bits=8, task_type=None)
    model = how.prepare(base)
    assert (output(model) - before).abs().max() < 0.05 * before.abs().max()
    for parameter in trainable(model).values():
        nn.init.normal_(parameter, std=1e-5)
    moved = output(model)
    merged = how.merge(model)
    assert (output(merged) - moved).abs().max() < 1e-4
    assert {n: tuple(p.shape) for n, p in merged.named_parameters()} == plain


def test_a_half_precision_base_keeps_float32_scales(folder):
    model = method("peqa").prepare(load(folder, dtype="bfloat16"))
    train(model, bf16=True)
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert torch.isfinite(loss_of(model, bf16=True))


def test_a_finished_run_is_the_trained_function_again(train_tiny):
    """The integers are computed again from the base; scales come from the run's folder."""
    from ftcli.run.build import open_run

    path = train_tiny("method=peqa", "model.quantization=none", "eval=loss", "run.name=peqa")
    run, again = open_run(path), open_run(path)
    result = json.loads((path / "result.json").read_text())
    assert torch.equal(logits(run.model), logits(again.model))
    with run.evaluation_weights():
        loss = run.evaluators["loss"](run)["loss"]
    assert loss == pytest.approx(result["metrics"]["eval.loss"], abs=1e-5)
    assert loss < result["metrics_before"]["eval.loss"]


def test_quantised_bases_and_wrong_options_are_refused(folder):
    with pytest.raises(UserError, match="quantised already"):
        method("peqa").prepare(load(folder, "nf4"))
    with pytest.raises(UserError, match="bits=5 has no packing"):
        method("peqa", bits=5).prepare(load(folder))
    with pytest.raises(UserError, match="group_size=48 does not divide"):
        method("peqa", group_size=48).prepare(load(folder))
    with pytest.raises(ValueError, match="is not a linear layer"):
        _wrapped_embedding(folder)


def _wrapped_embedding(folder):
    try:
        peft.get_peft_model(load(folder), PeqaConfig(target_modules=["embed_tokens"]))
    except TypeError as error:
        raise ValueError(str(error)) from error


#: LLaMA: hidden, MLP width, layers; the paper's trained parameters and gigabytes at 4 bits.
PAPER = {
    "7B": (4096, 11008, 32, 1_359_872, 3.768),
    "13B": (5120, 13824, 40, 2_129_920, 7.009),
    "30B": (6656, 17920, 60, 4_147_200, 16.921),
    "65B": (8192, 22016, 80, 6_799_360, 33.458),
}


@pytest.mark.parametrize("size", PAPER)
def test_the_papers_counts_and_sizes(size):
    """Trained scales of LLaMA, and bytes with 16-bit scales, zero points, embeddings and norms."""
    hidden, width, layers, trained, gigabytes = PAPER[size]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=width, num_hidden_layers=layers, vocab_size=32000,
        num_attention_heads=hidden // 128,
    )  # fmt: skip
    with torch.device("meta"):
        base = LlamaForCausalLM(config)
    anatomy = Anatomy(base)
    linears = anatomy.block_linears
    rest = anatomy.parameters() - sum(li.weights for li in linears)
    taken = sum(stored_bytes(li.out_features, li.in_features, 4, None, 2, 2) for li in linears)
    assert (taken + 2 * rest) / 1e9 == pytest.approx(gigabytes, abs=5e-4)
    if size == "7B":  # building the others says the same and takes longer
        model = method("peqa").prepare(base)
        assert sum(p.numel() for p in trainable(model).values()) == trained
    assert sum(li.out_features for li in linears) == trained
