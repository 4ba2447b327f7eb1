"""LQ-LoRA in a model: hand-over, Fisher information, formats by the integer program, what is saved."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file

from ftcli.core.errors import UserError
from ftcli.methods.calibration import objective_loss
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.lq_lora.decomposition import Decomposition, decompose
from ftcli.papers.lq_lora.layer import LqLoraLinear, PackedProduct
from ftcli.papers.lq_lora.method import LqLora, lq_layers, sum_squared_gradients
from ftcli.papers.lq_lora.normal_float import Format, quantise
from ftcli.run.build import open_run
from tests.methods.small_run import small_run
from tests.methods.tiny import load, logits, loss_of, method, train, trainable, write_llama

FORMATS = {"bits": [2, 3, 4], "block": [32, 64], "budget_bits": 3.1, "cost_iterations": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def start(folder, **options):
    """A method, its model after `setup` on four rows, and the run."""
    torch.manual_seed(1)
    how = method("lq_lora", **{"r": 8, "bits": [3], "iterations": 5} | options)
    source = CausalLMSource(str(folder))
    model = how.prepare(source.load("cpu"))
    run = small_run(model, source)
    how.setup(run)
    return how, model, run


@pytest.mark.parametrize("alpha", [16, 4])
def test_after_the_hand_over_it_is_quantised_plus_low_rank(folder, alpha):
    torch.manual_seed(0)
    layer = LqLoraLinear(torch.nn.Linear(96, 64))
    layer.add("default", method("lq_lora", r=8, lora_alpha=alpha).config())
    layer.set_adapter("default")
    weight = layer.dense.detach().clone()
    parts: Decomposition = decompose(weight, Format(3), 8)
    layer.store("default", parts)
    expected = parts.quantised.weight() + parts.left @ parts.right
    assert (layer.compute_weight("default") - expected).abs().max() < 1e-6
    x = torch.randn(5, 96)
    assert torch.allclose(layer(x), x @ expected.T + layer.base_layer.bias, atol=1e-5)
    assert layer.base_layer.weight.numel() == 0  # W is freed


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_model_starts_nearer_to_its_base_than_rounded_alone(folder, bits):
    base = logits(load(folder))
    far = [
        (logits(start(folder, bits=[bits], iterations=n)[1]) - base).norm().item() for n in (0, 20)
    ]
    assert far[1] < 0.95 * far[0]


def test_without_iterations_it_is_the_rounded_base_and_lora_at_zero(folder):
    _, model, _ = start(folder, iterations=0)
    rounded = load(folder)
    for name, layer in lq_layers(model.get_base_model()).items():
        weight = rounded.get_submodule(name).weight
        weight.data = quantise(weight, Format(3)).weight()
        assert not layer.lqlora_B["default"].any()
    assert (logits(model) - logits(rounded)).abs().max() < 2e-6


def test_fisher_information_is_the_sum_of_each_rows_squared_gradient(folder):
    source = CausalLMSource(str(folder))
    how = method("lq_lora", r=8, bits=[3], fisher_samples=3)
    model = how.prepare(source.load("cpu"))
    run = small_run(model, source)
    ours = sum_squared_gradients(run, lq_layers(model), 3)
    plain = source.load("cpu")
    total = {name: 0.0 for name in ours}
    for row in range(3):
        plain.zero_grad()
        batch = run.data.batch([row])
        objective_loss(small_run(plain, source), [batch])(plain, batch).backward()
        for name in total:
            weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
            total[name] = total[name] + weight.grad**2
    assert len(ours) == 14
    for name, expected in total.items():
        assert torch.allclose(ours[name], expected, rtol=1e-4, atol=1e-12)


def test_the_integer_program_gives_each_matrix_a_format_within_the_budget(folder):
    _, model, _ = start(folder, **FORMATS, fisher_samples=2)
    layers, weights = lq_layers(model).values(), load(folder)
    total = sum(
        layer.lqlora_A["default"].shape[1] * len(layer.lqlora_B["default"]) for layer in layers
    )
    formats = [layer.packed().format for layer in layers]
    bits = sum(
        layer.packed().format.count_bits(layer.packed().weight().numel()) for layer in layers
    )
    assert bits <= 3.1 * total and len(set(formats)) > 1
    assert bits > 2.9 * total  # the budget is used
    assert logits(model).isfinite().all() and weights is not model


def test_setup_decomposes_once_and_keeps_the_optimizers_tensors(folder):
    how, model, run = start(folder, fisher_samples=2)
    tensors = {n: (id(p), p.detach().clone()) for n, p in trainable(model).items()}
    how.setup(run)  # a second one finds everything done
    assert all(tensors[n][0] == id(p) for n, p in trainable(model).items())
    assert all(torch.equal(tensors[n][1], p) for n, p in trainable(model).items())


def test_training_moves_the_low_rank_part_alone(folder):
    _, model, _ = start(folder)
    before, first = {n: t.clone() for n, t in model.state_dict().items()}, loss_of(model).item()
    train(model, steps=2)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == trainable(model).keys() and len(moved) == 28
    assert {n.split(".")[-2] for n in moved} == {"lqlora_A", "lqlora_B"}
    assert loss_of(model).item() < first


def test_what_is_saved_holds_the_matrices_in_few_bits_and_loads_on_the_base(folder, tmp_path):
    how, model, _ = start(folder, **FORMATS, fisher_samples=2)
    train(model, steps=2)
    how.save(model, tmp_path)
    again = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(again), logits(model))
    layers = list(lq_layers(model).values())
    stored = sum(layer.packed().count_bytes() for layer in layers)
    low_rank = 4 * sum(p.numel() for p in trainable(model).values())
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < stored + low_rank + 14 * 7 * 200
    weights = sum(layer.packed().weight().numel() for layer in layers)
    assert 8 * stored < 3.3 * weights
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8


def test_a_state_of_mixed_formats_loads_into_a_model_that_is_not_decomposed(folder):
    how, model, _ = start(folder, **FORMATS, fisher_samples=2)
    saved = {n: t.clone() for n, t in how.get_trained_tensors(model).items()}
    other_how = method("lq_lora", r=8, **FORMATS, fisher_samples=2)
    other = other_how.prepare(load(folder))
    assert torch.allclose(logits(other), logits(load(folder)), atol=1e-6)  # not decomposed yet
    other_how.load_trained_tensors(other, saved)
    assert torch.equal(logits(other), logits(model))


def test_a_finished_run_that_was_weighed_by_its_data_is_opened(train_tiny):
    run = train_tiny(
        "method=lq_lora", "method.r=4", "method.bits=[3]", "method.iterations=1", "method.fisher_samples=2",
        "model.quantization=none", "eval=none", "run.name=lq_fisher",
    )  # fmt: skip
    opened = open_run(run)
    saved = load_file(run / "adapter" / "adapter_model.safetensors")
    tensors = opened.method.get_trained_tensors(opened.model)
    assert tensors.keys() == saved.keys() and len(saved) == 7 * 56
    assert all(torch.equal(tensors[name], saved[name]) for name in saved)


def test_merging_is_undone_to_the_bit_and_unloading_gives_the_quantised_base(folder):
    _, model, _ = start(folder)
    train(model, steps=1)
    expected = logits(model)
    with model.disable_adapter():
        quantised = logits(model)
    model.merge_adapter()
    assert (logits(model) - expected).abs().max() < 1e-5
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    assert (logits(model.unload()) - quantised).abs().max() < 1e-5


def test_backward_keeps_no_dense_weight():
    layer, kept = LqLoraLinear(torch.nn.Linear(96, 64)), []
    layer.add("default", method("lq_lora", r=8).config())
    layer.store("default", decompose(layer.dense.detach(), Format(3), 8))
    x = torch.randn(3, 96, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = PackedProduct.apply(x, layer.packed())
    assert not kept
    out.sum().backward()
    assert torch.allclose(x.grad, layer.packed().weight().sum(0).expand(3, -1), atol=1e-6)


def test_what_does_not_fit_is_refused(folder):
    with pytest.raises(UserError, match="quantised already"):
        method("lq_lora", r=8).prepare(load(folder, "nf4"))
    with pytest.raises(UserError, match="r=100 is more than the rank"):
        method("lq_lora", r=100).prepare(load(folder))
    with pytest.raises(UserError, match="3 formats to choose from, and budget_bits=None"):
        LqLora(bits=[2, 3, 4])
    with pytest.raises(UserError, match="no packing for 5 bits"):
        LqLora(bits=[5])
    with pytest.raises(UserError, match="above the budget"):
        start(folder, bits=[3, 4], budget_bits=2.0, cost_iterations=1)


def test_the_papers_count_and_bits_without_weights():
    meta = CausalLMSource("owner/name", architecture="llama2_70b").build_meta_model()
    weights = 68_451_041_280
    model = method("lq_lora", r=64, bits=[2, 3], budget_bits=2.75).prepare(meta)
    trained = sum(p.numel() for p in trainable(model).values())
    assert trained == 828_375_040
    stored = sum(layer.packed().codes.numel() for layer in lq_layers(model).values())
    assert 8 * stored / weights == pytest.approx(2.75, abs=1e-6)
    assert (2.75 * weights + 8 * trained) / weights == pytest.approx(2.847, abs=5e-4)
