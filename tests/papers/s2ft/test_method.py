"""S2FT: what is selected, that slices are dense, that it equals training in place, saving and loading."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.autograd.function import Function
from transformers import AutoConfig, LlamaForCausalLM

from ftcli.core.errors import UserError
from ftcli.papers.s2ft.coupled import find_coupled
from ftcli.papers.s2ft.method import S2ftConfig, S2ftLinear
from tests.methods.tiny import load, logits, loss_of, method, train, trainable, write_llama
from tests.methods.tuners.kinds import KINDS, build, output

#: On the tiny Llama (2 layers of 4 heads in 2 groups, 192 channels): 5 heads, 2 groups, 38 channels.
ALL = {"v": 0.5, "o": 0.7, "u": 0.1, "d": 0.1}


NONE = dict.fromkeys("voud", 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def layers(model) -> dict[str, S2ftLinear]:
    modules = {n: m for n, m in model.named_modules() if isinstance(m, S2ftLinear)}
    return {name.removeprefix("base_model.model."): m for name, m in modules.items()}


def perturb(model, std=0.02, seed=3):
    """Give the adapter random values, as after training."""
    torch.manual_seed(seed)
    for parameter in trainable(model).values():
        nn.init.normal_(parameter, std=std)
    return model


def test_the_fresh_model_is_the_base_though_its_weights_are_reordered(folder):
    base, model = load(folder), method("s2ft", ratios=ALL, seed=1).prepare(load(folder))
    assert (logits(model) - logits(base)).abs().max() < 1e-5
    moved = [
        name
        for name, layer in layers(model).items()
        if not torch.equal(layer.base_layer.weight, base.get_submodule(name).weight)
    ]
    assert any("o_proj" in n for n in moved) and any("down_proj" in n for n in moved)


@pytest.mark.parametrize("ratios", [ALL, {"d": 0.03}, {"o": 0.4, "d": 0.02}, {"v": 1.0, "u": 0.5}])
def test_the_budget_is_that_of_the_whole_model(folder, ratios):
    model = method("s2ft", ratios=NONE | ratios).prepare(load(folder))
    units = {"v": (4, 32 * 128), "o": (8, 32 * 128), "u": (384, 128), "d": (384, 128)}
    expected = sum(int(r * units[k][0]) * units[k][1] for k, r in ratios.items())
    assert sum(p.numel() for p in trainable(model).values()) == expected


def test_layers_get_different_numbers_and_one_without_any_stays_plain(folder):
    chosen = [method("s2ft", seed=s, ratios={"d": 0.05}).prepare(load(folder)) for s in range(4)]
    sizes = [[p.shape[1] for p in trainable(model).values()] for model in chosen]
    assert all(sum(size) == 19 for size in sizes) and len({tuple(size) for size in sizes}) > 1
    model = method("s2ft", ratios={"d": 1 / 384}).prepare(load(folder))
    downs = [m for n, m in model.named_modules() if n.endswith("down_proj")]
    assert sorted(type(m).__name__ for m in downs) == ["Linear", "S2ftLinear"]


@pytest.mark.parametrize("seed", range(4))
def test_every_slice_is_one_run_also_with_grouped_queries(folder, seed):
    model = method("s2ft", ratios=ALL, seed=seed).prepare(load(folder))
    assert layers(model) and all(
        m.places["default"].start is not None for m in layers(model).values()
    )


def test_the_slices_gradient_is_the_slice_of_the_dense_gradient(folder):
    model = method("s2ft", ratios=ALL).prepare(load(folder))
    for layer in layers(model).values():
        layer.base_layer.weight.requires_grad_()
    loss_of(model.train()).backward()
    for layer in layers(model).values():
        place, dense = layer.places["default"], layer.base_layer.weight.grad
        cut = dense.narrow(int(place.side == "in"), place.start, place.size)
        assert (layer.s2ft_slice["default"].grad - cut).abs().max() < 1e-6
        assert cut.abs().max() > 1e-5


class InPlace(Function):
    """x W^T, with the gradient of a run of W's columns only: the other form of the algorithm."""

    @staticmethod
    def forward(ctx, x, weight, columns, start):
        ctx.save_for_backward(x[..., start : start + columns.shape[1]].clone(), weight)
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx, grad):
        chosen, weight = ctx.saved_tensors
        return grad @ weight, None, grad.flatten(0, -2).T @ chosen.flatten(0, -2), None


def test_training_the_weight_in_place_is_the_same_step_by_step(folder):
    options = {"ratios": {"o": 0.7, "d": 0.1}}
    added = method("s2ft", **options).prepare(load(folder)).train()
    placed = method("s2ft", **options).prepare(load(folder)).train()
    columns = []
    for layer in layers(placed).values():
        place, weight = layer.places["default"], layer.base_layer.weight
        part = nn.Parameter(weight.data[:, place.start : place.start + place.size])
        columns.append(part)  # a view: the optimizer writes into the weight
        layer.forward = lambda x, w=weight, p=part, s=place.start: InPlace.apply(x, w, p, s)
    rate = {"lr": 1e-2, "weight_decay": 0.0}
    first = torch.optim.AdamW(trainable(added).values(), **rate)
    other = torch.optim.AdamW(columns, **rate)
    losses = []
    for _ in range(5):
        losses.append((loss_of(added), loss_of(placed)))
        for optimizer, loss in zip((first, other), losses[-1], strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1][0] < losses[0][0] - 0.01
    assert max(abs(a.item() - b.item()) for a, b in losses) < 2e-6
    for mine, theirs in zip(layers(added).values(), layers(placed).values(), strict=True):
        trained = mine.base_layer.weight + mine.delta("default")
        assert (trained - theirs.base_layer.weight).abs().max() < 1e-5


def test_what_is_saved_is_applied_to_the_untouched_base_by_hand(folder, tmp_path):
    how = method("s2ft", ratios=ALL)
    model = perturb(how.prepare(load(folder)))
    trained = logits(model)
    how.save(model, tmp_path)
    selected = json.loads((tmp_path / "adapter_config.json").read_text())["selected"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    base = load(folder)
    for name, units in selected.items():
        part, weight = (
            tensors[f"base_model.model.{name}.s2ft_slice"],
            base.get_submodule(name).weight,
        )
        width = 32 if name.endswith(("v_proj", "o_proj")) else 1  # heads, or channels
        index = [unit * width + i for unit in units for i in range(width)]
        dim = 1 if name.endswith(("o_proj", "down_proj")) else 0
        weight.data.index_add_(dim, torch.tensor(index), part)
    assert (logits(base) - trained).abs().max() < 1e-5
    assert (logits(load(folder)) - trained).abs().max() > 1e-2
    reloaded = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(reloaded), trained)


def test_merged_is_the_base_but_for_the_chosen_rows_and_columns(folder):
    how = method("s2ft", ratios=ALL)
    model = perturb(how.prepare(load(folder)))
    trained, selected = logits(model), model.peft_config["default"].selected
    merged = how.merge(model)
    assert (logits(merged) - trained).abs().max() < 1e-5
    base = dict(load(folder).named_parameters())
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, base[n])}
    assert changed == {f"{name}.weight" for name in selected}
    for name in selected:
        off = merged.get_submodule(name).weight != base[f"{name}.weight"]
        dim = 0 if name.endswith(("o_proj", "down_proj")) else 1
        width = 32 if name.endswith(("v_proj", "o_proj")) else 1
        touched = off.any(dim).nonzero().flatten().div(width, rounding_mode="floor").unique()
        assert touched.tolist() == sorted(selected[name])


def test_without_the_adapter_the_base_is_as_it_was_to_the_bit(folder):
    model = perturb(method("s2ft", ratios=ALL).prepare(load(folder)))
    bare, base = model.unload(), load(folder)
    assert all(torch.equal(p, base.get_parameter(n)) for n, p in bare.named_parameters())


def test_two_adapters_on_other_channels_add_up(folder, tmp_path):
    model = perturb(method("s2ft", ratios={"d": 0.05}).prepare(load(folder)))
    first = model.peft_config["default"].selected
    name = next(iter(first))
    rest = [unit for unit in range(192) if unit not in first[name]][:7]
    model.add_adapter("second", S2ftConfig(ratios={"d": 0.05}, selected={name: rest}))
    model.base_model.set_adapter(["default", "second"])
    perturb(model)
    both = logits(model)
    apart = load(folder)
    weight = apart.get_submodule(name).weight
    for adapter in ("default", "second"):
        part = layers(model)[name].s2ft_slice[adapter].detach()
        weight.data[:, model.peft_config[adapter].selected[name]] += part
    for other in set(first) - {name}:
        part = layers(model)[other].s2ft_slice["default"].detach()
        apart.get_submodule(other).weight.data[:, first[other]] += part
    assert (logits(apart) - both).abs().max() < 1e-5
    model.base_model.set_adapter("second")
    updated_base = load(folder)
    updated_base.get_submodule(name).weight.data[:, rest] += (
        layers(model)[name].s2ft_slice["second"].detach()
    )
    assert (logits(updated_base) - logits(model)).abs().max() < 1e-5


def test_only_the_chosen_inputs_are_kept_for_the_gradient(folder):
    model = method("s2ft").prepare(load(folder))
    layer, kept = next(iter(layers(model).values())), []
    x = torch.randn(5, 192, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    sizes = [
        t.untyped_storage().nbytes() for t in kept if t.untyped_storage().data_ptr() not in weights
    ]
    assert sizes and max(sizes) == 4 * 5 * layer.places["default"].size


@pytest.mark.parametrize("direction", ["small", "large"])
def test_selection_by_weight_takes_the_extreme_norms(folder, direction):
    how = method("s2ft", selection="weight", direction=direction, ratios={"d": 0.05})
    chosen = how.prepare(load(folder)).peft_config["default"].selected
    base = load(folder)
    norms = {
        name: base.get_submodule(name).weight.norm(dim=0)
        for name in (f"model.layers.{i}.mlp.down_proj" for i in range(2))
    }
    every = torch.cat(list(norms.values())).sort(descending=direction == "large").values
    taken = torch.cat([norms[name][units] for name, units in chosen.items()])
    assert torch.allclose(taken.sort(descending=direction == "large").values, every[:19])


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures(kind, tmp_path):
    before, ratios = output(build(kind)), {"v": 0.3, "o": 0.3, "u": 0.1, "d": 0.1}
    how = method("s2ft", ratios=ratios, task_type=None)
    model = how.prepare(build(kind))
    allowed = 1e-5 * before.abs().max()
    assert (output(model) - before).abs().max() < allowed
    assert len(layers(model)) >= 4
    output(model).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable(model).values())
    perturb(model)
    trained = output(model)
    assert (trained - before).abs().max() > 100 * allowed
    how.save(model, tmp_path)
    reloaded = peft.PeftModel.from_pretrained(build(kind), tmp_path)
    assert torch.equal(output(reloaded), trained)
    assert (output(how.merge(model)) - trained).abs().max() < allowed


def test_on_quantised_weights_chosen_columns_are_gathered(folder):
    base = load(folder, "nf4")
    before = logits(base)
    model = method("s2ft", ratios=ALL).prepare(base)
    assert torch.equal(logits(model), before)
    assert any(m.places["default"].start is None for m in layers(model).values())
    train(model)
    assert (logits(model) - before).abs().max() > 1e-3


def test_errors_name_the_cause(folder):
    with pytest.raises(UserError, match=r"ratios\.k: there are v, o, u, d"):
        method("s2ft", ratios={"k": 0.1}).prepare(load(folder))
    with pytest.raises(UserError, match="nothing is trained"):
        method("s2ft", ratios=NONE).prepare(load(folder))
    with pytest.raises(UserError, match=r"ratios lie between"):
        method("s2ft", ratios={"d": 1.5}).prepare(load(folder))
    with pytest.raises(UserError, match="the model has no such coupled layer"):
        method("s2ft", selected={"model.layers.0.mlp.gone": [1]}).prepare(load(folder))
    with pytest.raises(UserError, match=r"ratios\.d=0\.0001 is less than one of 384"):
        method("s2ft", ratios=NONE | {"d": 1e-4}).prepare(load(folder))


PAPER = {"llama3_8b": ({"d": 0.03}, 56_369_152), "llama2_7b": ({"o": 0.052, "d": 0.02}, 56_643_584)}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_counts(name):
    from ftcli.config import configs_dir

    ratios, expected = PAPER[name]
    folder = configs_dir().parent / "ftcli" / "assets" / "architectures" / name
    with torch.device("meta"):
        base = LlamaForCausalLM(AutoConfig.from_pretrained(folder))
    model = method("s2ft", ratios=NONE | ratios).prepare(base)
    assert sum(p.numel() for p in trainable(model).values()) == expected
    assert len([c for c in find_coupled(model) if c.fixed]) == 0
