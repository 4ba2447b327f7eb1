"""SketchTune in a model: step 0, what moves, calibration block by block, what is saved and merged."""

from __future__ import annotations

import peft
import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.models.causal_lm import CausalLMSource
from ftcli.papers.sketchtune.layer import SketchConfig, SketchedProduct, SketchLinear
from ftcli.papers.sketchtune.method import SketchTune, group_by_block, sketch_layers
from ftcli.papers.sketchtune.sketch import SketchSettings, learn_sketch, look_up
from tests.methods.small_run import rows, small_run
from tests.methods.tiny import load, logits, loss_of, method, train, trainable, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def prepared(folder, dtype="float32", **options):
    torch.manual_seed(1)
    return method("sketch", **{"bits": 3} | options).prepare(load(folder, dtype=dtype))


def calibrated(folder, **options):
    """A method, and its model after `setup` on a few rows."""
    torch.manual_seed(1)
    how, source = (
        method("sketch", **{"bits": 3, "samples": 32} | options),
        CausalLMSource(str(folder)),
    )
    model = how.prepare(source.load("cpu"))
    how.setup(small_run(model, source, rows(32)))
    return how, model


def codes_of(model):
    return {n: p.clone() for n, p in model.named_parameters() if n.endswith(".codes")}


@pytest.mark.parametrize("groups", [1, 2])
def test_at_step_0_it_is_the_model_of_the_looked_up_weights(folder, groups):
    model, plain = prepared(folder, groups_per_row=groups), load(folder)
    for name, layer in sketch_layers(model.get_base_model()).items():
        packed = layer.packed("default")
        plain.get_submodule(name).weight.data = look_up(packed.start, packed.unpack())
        assert layer.get_base_layer().weight.numel() == 0  # W is freed
    assert (logits(model) - logits(plain)).abs().max() < 1e-6
    assert (logits(model) - logits(load(folder))).abs().max() > 1e-2
    count = sum(8 * groups * li.out_features for li in Anatomy(plain).block_linears)
    assert sum(p.numel() for p in trainable(model).values()) == count
    assert {p.dim() for p in trainable(model).values()} == {1}  # no weight decay


def test_values_move_codes_do_not_and_the_change_is_of_high_rank(folder):
    model = prepared(folder)
    before, first = {n: t.clone() for n, t in model.state_dict().items()}, loss_of(model).item()
    starts = {n: layer.compute_base_weight() for n, layer in sketch_layers(model).items()}
    train(model)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == trainable(model).keys() and loss_of(model).item() < first
    for name, layer in sketch_layers(model).items():
        change = layer.compute_weight("default") - starts[name]
        assert all(len(row.unique()) <= 8 for row in (change * 1e6).round())
        assert torch.linalg.matrix_rank(change) > 0.9 * min(change.shape)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_product_and_its_gradients_are_those_of_a_lookup(bits):
    torch.manual_seed(0)
    layer = SketchLinear(torch.nn.Linear(48, 20).double())
    layer.add("default", SketchConfig(bits=bits, groups_per_row=2))
    layer.store("default", learn_sketch(layer.dense, None, SketchSettings(bits, 2)))
    packed = layer.packed("default")
    codes, values = packed.unpack(), packed.start.detach().double().requires_grad_()
    x = torch.randn(3, 7, 48).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    ours = SketchedProduct.apply(x, values, packed)
    (ours.sin()).sum().backward()
    to_values, values.grad = values.grad.clone(), None
    expected = torch.nn.functional.linear(y, look_up(values, codes))
    expected.sin().sum().backward()
    assert torch.equal(ours, expected)
    assert torch.allclose(to_values, values.grad, atol=1e-10)
    assert torch.allclose(x.grad, y.grad, atol=1e-10)


def test_backward_keeps_inputs_and_values_alone(folder):
    model, saved = prepared(folder), []
    linear = next(iter(sketch_layers(model).values()))

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    x = torch.randn(2, 5, 128)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        linear(x)
    assert sorted(saved) == sorted([x.numel(), linear.values("default").numel()])


@torch.no_grad()
def distance(model, base) -> float:
    """How far the logits of the calibration rows are from those of the base."""
    ids = rows(32)
    return (model(input_ids=ids).logits - base(input_ids=ids).logits).norm().item()


def test_calibration_brings_the_outputs_nearer_and_goes_by_blocks(folder):
    how, model = calibrated(folder)
    layers = sketch_layers(model)
    assert all(layer.is_freed for layer in layers.values())
    groups = [list(group) for _, group in group_by_block(model, layers)]
    assert [len(group) for group in groups] == [7, 7] and ".layers.0." in groups[0][0]
    assert distance(model, load(folder)) < 0.9 * distance(prepared(folder), load(folder))
    before = codes_of(model)
    source = CausalLMSource(str(folder))
    how.setup(small_run(model, source))  # a second one finds everything done
    assert all(torch.equal(codes, before[n]) for n, codes in codes_of(model).items())


def test_later_blocks_see_the_sketches_of_earlier_ones(folder, monkeypatch):
    seen = []
    learn = SketchTune.learn

    def record(self, model, layers, covariances):
        seen.append({n: c.clone() for n, c in covariances.items()})
        learn(self, model, layers, covariances)

    monkeypatch.setattr(SketchTune, "learn", record)
    calibrated(folder, bits=2)
    coarse = seen[:]
    seen.clear()
    calibrated(folder, bits=4)
    name = "base_model.model.model.layers.{}.self_attn.q_proj"
    assert torch.equal(coarse[0][name.format(0)], seen[0][name.format(0)])
    first, second = coarse[1][name.format(1)], seen[1][name.format(1)]
    assert (first - second).abs().max() > 1e-3 * second.abs().max()


def test_a_saved_adapter_holds_codes_and_loads_on_the_untouched_base(folder, tmp_path):
    how, model = calibrated(folder)
    train(model)
    expected = logits(model)
    how.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(loaded), expected)
    assert all(torch.equal(p, codes_of(model)[n]) for n, p in codes_of(loaded).items())
    torch.manual_seed(9)
    other = method("sketch", bits=3, samples=4)
    fresh = other.prepare(load(folder))
    assert torch.allclose(logits(fresh), logits(load(folder)), atol=1e-6)  # no sketch yet
    other.load_trained_tensors(fresh, how.get_trained_tensors(model))
    assert torch.equal(logits(fresh), expected)
    merged = how.merge(model)
    assert (logits(merged) - expected).abs().max() < 1e-5


def test_switched_off_it_is_the_untrained_sketch_and_merging_is_undone(folder):
    model = prepared(folder)
    untrained = logits(model)
    train(model)
    expected = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), untrained)
    model.merge_adapter()
    assert (logits(model) - expected).abs().max() < 1e-5
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    assert (logits(model.unload()) - untrained).abs().max() < 1e-5


def test_a_further_adapter_needs_a_sketch_of_its_own(folder):
    model = prepared(folder)
    model.add_adapter("second", model.peft_config["default"])
    model.set_adapter("second")
    with pytest.raises(ValueError, match="second has no sketch"):
        logits(model)


def test_on_a_half_precision_base_changes_are_float32_and_values_are_of_the_base(folder):
    model = prepared(folder, "bfloat16")
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    layer = next(iter(sketch_layers(model).values()))
    assert layer.packed("default").start.dtype == torch.bfloat16
    assert layer.packed("default").codes.dtype == torch.uint8
    assert layer.packed("default").codes.numel() == layer.shape[0] * layer.shape[1] * 3 / 8


def test_quantised_bases_and_wrong_options_are_refused(folder):
    with pytest.raises(UserError, match="quantised already"):
        method("sketch").prepare(load(folder, "nf4"))
    with pytest.raises(UserError, match="bits=5 has no packing"):
        prepared(folder, bits=5)
    with pytest.raises(UserError, match="groups_per_row=5 does not divide rows of 128"):
        prepared(folder, groups_per_row=5)


@pytest.mark.parametrize(
    ("name", "count"),
    [("llama1_7b", 21_757_952), ("llama1_13b", 34_078_720), ("llama3_8b", 22_020_096)],
)
def test_the_papers_counts_on_the_meta_device(name, count):
    meta = CausalLMSource("owner/name", architecture=name).build_meta_model()
    model = method("sketch").prepare(meta.to(torch.bfloat16))
    assert sum(p.numel() for p in trainable(model).values()) == count
    if name == "llama1_7b":  # codes and 16-bit values of it; the paper says 3.89 GB
        frozen = sum(
            p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad
        )
        assert frozen / 1e9 == pytest.approx(3.81, abs=0.005)
