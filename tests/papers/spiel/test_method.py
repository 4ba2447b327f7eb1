"""SpIEL: gradients of the sparse operation, drop and grow, budgets, and a planted support."""

from __future__ import annotations

from types import SimpleNamespace

import peft
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.models.anatomy import count_parameters
from ftcli.optimizers.sm3 import SM3
from ftcli.optimizers.sparse_adamw import SparseAdamW
from ftcli.optimizers.state import elements
from ftcli.papers.spiel.method import (
    Candidates,
    SpIEL,
    grow_by_gradients,
    grow_by_momenta,
    select_smallest,
)
from ftcli.papers.spiel.tuner import SpIELConfig, SpIELConv1D, SpIELLinear
from tests.methods.tiny import IDS, load, logits, loss_of, trainable, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


def prepare_model(folder, quantization="none", dtype="float32", **options):
    torch.manual_seed(1)
    return SpIEL(**{"rank": 4, **options}).prepare(load(folder, quantization, dtype))


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, SpIELLinear)}


def begin_run(model, optimizer, method, steps=40, accumulation=1):
    """Set up the method on a model outside a run; the state of the loop before the first step."""
    run = SimpleNamespace(
        model=model,
        optimizer_builder=SimpleNamespace(optimizer=optimizer, weight_decay=0.0),
        accelerator=SimpleNamespace(num_processes=1),
        trainer=SimpleNamespace(gradient_accumulation_steps=accumulation),
    )
    method.setup(run)
    return State(run, model, steps)


def step(method, state, losses):
    method.before_step(state)
    for loss in losses:
        loss().backward()
    state.run.optimizer_builder.optimizer.step()
    state.run.optimizer_builder.optimizer.zero_grad()
    state.step += 1
    method.after_step(state)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_gradient_of_the_values_is_the_weight_gradient_at_their_positions(folder, quantization):
    model = prepare_model(folder, quantization)
    for parameter in trainable(model).values():
        nn.init.normal_(parameter, std=0.05)
    dense = {}
    for name, layer in layers(model).items():
        layer.observer = lambda gradient, name=name: dense.update({name: gradient.clone()})
    loss_of(model).backward()
    assert dense.keys() == layers(model).keys() and len(dense) == 14
    for name, layer in layers(model).items():
        values, places = layer.spiel_values["default"], layer.spiel_indices["default"]
        assert torch.equal(values.grad, dense[name].flatten()[places])
        assert places.dtype == torch.int32
    # that gradient equals the one of plain layers with the same weights
    plain = load(folder)
    for name, layer in layers(model).items():
        with torch.no_grad():
            weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
            weight.copy_(layer.get_base_weight() + layer.delta("default"))
    plain.requires_grad_(True)
    loss_of(plain).backward()
    for name, gradient in dense.items():
        weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
        assert (weight.grad - gradient).abs().max() < 1e-5 + 1e-4 * weight.grad.abs().max()


def test_a_layer_of_gpt2_has_the_gradients_of_its_own_layout():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    layer = SpIELConv1D(Conv1D(5, 7))
    layer.add("default", SimpleNamespace(shares=(6, 35)))
    nn.init.normal_(layer.spiel_values["default"])
    twin = Conv1D(5, 7)
    with torch.no_grad():
        twin.weight.copy_(layer.base_layer.weight + layer.delta("default"))
        twin.bias.copy_(layer.base_layer.bias)
    x, y = (torch.randn(2, 3, 7).requires_grad_() for _ in range(2))
    with torch.no_grad():
        y.copy_(x)
    (layer(x) ** 2).sum().backward()
    (twin(y) ** 2).sum().backward()
    assert torch.allclose(layer(x), twin(y), atol=1e-6)
    assert torch.allclose(x.grad, y.grad, atol=1e-5)
    places = layer.spiel_indices["default"]
    assert torch.allclose(
        layer.spiel_values["default"].grad, twin.weight.grad.flatten()[places], atol=1e-5
    )


def test_no_gradient_of_a_whole_matrix_is_left_after_backward(folder):
    model = prepare_model(folder)
    loss_of(model).backward()
    held = {n: p.grad.numel() for n, p in model.named_parameters() if p.grad is not None}
    assert held == {n: p.numel() for n, p in trainable(model).items()}


def test_the_three_budgets(folder):
    model = load(folder)
    linears = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    weights = sum(m.weight.numel() for m in linears)
    lora = 4 * sum(sum(m.weight.shape) for m in linears)
    total = count_parameters(model)
    for options, budget in (
        ({"rank": 4}, lora),
        ({"rank": None, "num_weights": 777}, 777),
        ({"rank": None, "density": 0.02}, int(0.02 * total)),
        ({"rank": None}, int(0.01 * total)),
    ):
        counts = [p.numel() for p in trainable(prepare_model(folder, **options)).values()]
        assert counts == [budget * m.weight.numel() // weights for m in linears]
        assert budget - len(linears) < sum(counts) <= budget
    with pytest.raises(UserError, match="each set the budget"):
        prepare_model(folder, density=0.1)
    with pytest.raises(UserError, match="a budget of"):
        prepare_model(folder, rank=10**6)


def test_merged_and_unmerged_agree_and_unmerging_gives_the_base_back(folder):
    model = prepare_model(folder)
    for parameter in trainable(model).values():
        nn.init.normal_(parameter, std=0.05)
    out, base = logits(model), logits(load(folder))
    assert (out - base).abs().max() > 1e-3
    model.merge_adapter()
    assert (logits(model) - out).abs().max() < 1e-6
    model.unmerge_adapter()
    with model.disable_adapter():
        assert (logits(model) - base).abs().max() < 1e-5


def test_positions_are_saved_with_the_adapter(folder, tmp_path):
    model = prepare_model(folder)
    for parameter in trainable(model).values():
        nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path)
    torch.manual_seed(5)  # other random positions
    again = peft.PeftModel.from_pretrained(load(folder), tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert all(
        layer.spiel_indices["default"].dtype == torch.int32 for layer in layers(again).values()
    )


def test_fixed_support_is_adamw_on_a_masked_delta(folder):
    method = SpIEL(growth="fixed", rank=4)
    torch.manual_seed(1)
    model, base = method.prepare(load(folder)), load(folder)
    options = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-6}
    optimizer = SparseAdamW(trainable(model).values(), **options)
    state = begin_run(model, optimizer, method)
    name, layer = next(iter(layers(model).items()))
    start = layer.get_base_weight().clone()
    weights = [p for p in base.parameters()]
    for parameter in weights:
        parameter.requires_grad_(False)
    others = {
        base.get_submodule(n.removeprefix("base_model.model.")).weight.requires_grad_(True): m
        for n, m in layers(model).items()
    }
    dense = SparseAdamW(others, **options)
    for weight, layer_of_weight in others.items():
        dense.restrict(weight, layer_of_weight.spiel_indices["default"])
    for _ in range(4):
        step(method, state, [lambda: loss_of(model)])
        loss_of(base).backward()
        dense.step()
        dense.zero_grad()
    for weight, layer_of_weight in others.items():
        assert (
            weight - layer_of_weight.get_base_weight() - layer_of_weight.delta("default")
        ).abs().max() < 1e-5
    assert torch.equal(layer.get_base_weight(), start)


def test_phases_begin_and_end_as_in_the_authors_code():
    """Five steps in the first phase, six in later ones, which begin one step before."""
    torch.manual_seed(0)
    model, optimizer, method = build_single_layer(
        growth="ag", reselect_every=20, accumulate_steps=5
    )
    state = begin_run(model, optimizer, method, steps=50)
    samples, before = {}, positions(model)
    moved = []
    for _ in range(50):
        step(method, state, [lambda: mse_loss(model(torch.randn(8, 12)), torch.zeros(8, 10))])
        samples[state.step] = method._candidates["0"].samples if method._candidates else 0
        moved += [state.step] if not torch.equal(before, positions(model)) else []
        before = positions(model)
    assert [s for s, n in samples.items() if n] == [
        1,
        2,
        3,
        4,
        20,
        21,
        22,
        23,
        24,
        40,
        41,
        42,
        43,
        44,
    ]
    assert samples[24] == 5  # the sixth, in step 25, is seen before the choice
    assert set(moved) <= {5, 25, 45} and 5 in moved
    assert method.drop_share(5, 100) == 1.0
    assert method.drop_share(25, 100) == pytest.approx(0.2 * 0.75)
    assert SpIEL(drop_schedule="cosine").drop_share(25, 50) == pytest.approx(0.1)


def build_single_layer(width=12, height=10, count=20, optimizer=SparseAdamW, lr=1e-2, **options):
    """One linear layer with `count` deltas, and its optimizer."""
    torch.manual_seed(0)
    layer = SpIELLinear(nn.Linear(width, height, bias=False).requires_grad_(False))
    layer.add("default", SimpleNamespace(shares=(count, width * height)))
    layer.set_adapter(["default"])
    model = nn.Sequential(layer)
    return model, optimizer([layer.spiel_values["default"]], lr=lr), SpIEL(**options)


def positions(model):
    return model[0].spiel_indices["default"].clone()


def test_growing_keeps_what_was_dropped_and_chosen_again_and_seeds_the_rest():
    model, optimizer, _ = build_single_layer(count=4)
    layer = model[0]
    values, indices = layer.spiel_values["default"], layer.spiel_indices["default"]
    with torch.no_grad():
        indices.copy_(torch.tensor([3, 10, 50, 90]))
        values.copy_(torch.tensor([0.1, -0.2, 0.3, 5.0]))
    optimizer.seed(values, torch.arange(4), torch.full((4,), 0.7), torch.full((4,), 0.9), 8.0)
    seen = Candidates(
        indices=torch.tensor([90, 10, 7, 8]),
        total=torch.tensor([99.0, 6.0, -8.0, 1.0]),
        squares=torch.tensor([99.0, 9.0, 20.0, 1.0]),
        samples=4,
    )
    dropped = select_smallest(values, 0.75)
    assert dropped.tolist() == [0, 1, 2]
    grow_by_gradients(layer, dropped, seen, optimizer, accumulation=2)
    # 90 stays active and is no candidate; 10 was dropped and is chosen again, so it is untouched
    assert indices.tolist() == [7, 10, 8, 90]
    assert values.tolist() == pytest.approx([0.0, -0.2, 0.0, 5.0])
    state = optimizer.state[values]
    assert state["step"].tolist() == [2.0, 8.0, 2.0, 8.0]
    corrected = state["exp_avg"] / (1 - 0.9 ** state["step"])
    assert corrected[[0, 2]].tolist() == pytest.approx([-2.0, 0.25])
    corrected = state["exp_avg_sq"] / (1 - 0.999 ** state["step"])
    assert corrected[[0, 2]].tolist() == pytest.approx([5.0, 0.25], rel=1e-3)
    assert state["exp_avg"][[1, 3]].tolist() == pytest.approx([0.7, 0.7])


def test_momenta_grow_the_inactive_entries_of_largest_product():
    model, optimizer, _ = build_single_layer(width=3, height=3, count=2, optimizer=SM3)
    layer = model[0]
    values, indices = layer.spiel_values["default"], layer.spiel_indices["default"]
    indices.copy_(torch.tensor([0, 4]))
    optimizer.set_layout(values, indices, (3, 3))
    rows, columns = optimizer.get_accumulators(values)
    rows.copy_(torch.tensor([2.0, 1.0, 0.0]))
    columns.copy_(torch.tensor([3.0, 5.0, 1.0]))
    grow_by_momenta(layer, torch.tensor([0, 1]), optimizer)
    assert indices.tolist() == [1, 3]  # products 10 and 3, those of active entries left out


@pytest.mark.parametrize(("growth", "optimizer"), [("ag", SparseAdamW), ("ma", SM3)])
def test_support_stays_k_distinct_positions_and_state_stays_small(folder, growth, optimizer):
    method = SpIEL(growth=growth, reselect_every=5, accumulate_steps=2, rank=4)
    torch.manual_seed(1)
    model = method.prepare(load(folder))
    optimizer = optimizer(trainable(model).values(), lr=1e-3)
    state = begin_run(model, optimizer, method, steps=20)
    first = {n: m.spiel_indices["default"].clone() for n, m in layers(model).items()}
    kept, seen = {}, {}
    for _ in range(12):
        kept = {n: m.spiel_indices["default"].clone() for n, m in layers(model).items()}
        seen = {n: c.indices for n, c in method._candidates.items()} or seen
        step(method, state, [lambda: loss_of(model)])
        for name, layer in layers(model).items():
            places = layer.spiel_indices["default"]
            assert len(places.unique()) == len(places) == len(first[name])
            assert 0 <= int(places.min()) and int(places.max()) < layer.shape[0] * layer.shape[1]
            if growth == "ag" and seen:
                known = torch.isin(places, seen[name]) | torch.isin(places, kept[name])
                assert known.all()
        if state.step == 2:
            assert any(
                not torch.equal(first[n], m.spiel_indices["default"])
                for n, m in layers(model).items()
            )
    trained = sum(p.numel() for p in trainable(model).values())
    sides = sum(sum(layer.shape) for layer in layers(model).values())
    assert elements(optimizer) == (3 * trained if growth == "ag" else sides)


@pytest.mark.parametrize("after", [3, 6, 11])
@pytest.mark.parametrize(("growth", "kind"), [("ag", SparseAdamW), ("ma", SM3)])
def test_a_resumed_run_goes_on_to_the_bit(growth, kind, after):
    """Also from the middle of a phase."""
    data = [torch.randn(8, 12, generator=torch.Generator().manual_seed(i)) for i in range(16)]
    options = {"growth": growth, "reselect_every": 5, "accumulate_steps": 2}

    def go(model, method, state, until):
        while state.step < until:
            step(method, state, [lambda: mse_loss(model(data[state.step]), torch.ones(8, 10))])

    model, optimizer, method = build_single_layer(optimizer=kind, **options)
    state = begin_run(model, optimizer, method, steps=16)
    go(model, method, state, after)
    resumed_model, resumed_optimizer, resumed = build_single_layer(optimizer=kind, **options)
    later = begin_run(resumed_model, resumed_optimizer, resumed, steps=16)
    resumed_model.load_state_dict(model.state_dict())
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    saved = method.state_dict()
    assert bool(saved) == (growth == "ag" and after in (6, 11))
    resumed.load_state_dict(saved)
    later.step = after
    go(model, method, state, 16)
    go(resumed_model, resumed, later, 16)
    assert torch.equal(positions(resumed_model), positions(model))
    assert torch.equal(resumed_model[0].spiel_values["default"], model[0].spiel_values["default"])


def find_planted(growth, optimizer, lr):
    """Share of a planted support found by a layer whose target differs from it in 40 of 960 entries."""
    model, optimizer, method = build_single_layer(
        32, 30, 40, optimizer, lr, growth=growth, reselect_every=20, accumulate_steps=5
    )
    generator = torch.Generator().manual_seed(3)
    support = torch.randperm(960, generator=generator)[:40]
    target = model[0].base_layer.weight.detach().clone()
    target.view(-1)[support] += torch.randn(40, generator=generator).sign()
    state = begin_run(model, optimizer, method, steps=400)

    def loss():
        x = torch.randn(64, 32, generator=generator)
        return mse_loss(model(x), x @ target.T)

    for _ in range(400):
        step(method, state, [loss])
    return torch.isin(support, positions(model)).float().mean().item()


def test_accumulated_gradients_find_a_planted_support_and_a_random_one_does_not():
    assert find_planted("ag", SparseAdamW, 0.02) >= 0.95
    assert find_planted("fixed", SparseAdamW, 0.02) < 0.15


def test_mistakes_are_said(folder):
    model = prepare_model(folder)
    adam = torch.optim.AdamW(trainable(model).values())
    for growth, option in (("ag", "sparse_adamw"), ("ma", "sm3")):
        with pytest.raises(UserError, match="does not have") as error:
            begin_run(model, adam, SpIEL(growth=growth))
        assert error.value.fix == f"optimizer={option}"
    with pytest.raises(UserError, match="not over when the next begins"):
        begin_run(model, SparseAdamW(trainable(model).values()), SpIEL(reselect_every=6))


def test_on_the_meta_device_entries_are_counted(folder):
    from ftcli.models.causal_lm import CausalLMSource

    model = SpIEL(num_weights=999).prepare(CausalLMSource(str(folder)).build_meta_model())
    assert 985 < sum(p.numel() for p in trainable(model).values()) <= 999
    assert {p.device.type for p in trainable(model).values()} == {"meta"}
    assert SpIELConfig(rank=3).density is None and IDS.shape == (2, 12)
