"""GreenTrainer on real runs: the probe leaves no trace, what is frozen stays, and a resume goes on to the bit."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.papers.greentrainer.probe import measure_importance, record_costs
from ftcli.reproduce.probe import first_batch
from tests.trainable.small import build, fitted, same

GREEN = (
    "method=full", "trainable=greentrainer", "trainable.rho=0.6", "trainable.probe_rows=2",
    "trainable.interval_epochs=null", "trainable.interval_steps=3",
)  # fmt: skip
STEPS = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("green") / "r"
    return fitted(*GREEN, f"trainer.max_steps={STEPS}", folder=folder)


def read_selections(run) -> list[dict]:
    lines = map(json.loads, (run.dir.path / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "selected_tensors"]


def prepare(*overrides):
    """A run before its first step; its state."""
    run = build(*GREEN, *overrides)
    return run, run.trainer.prepare_training(run).state


def test_tensors_are_selected_every_interval_within_the_budget(run):
    selections = read_selections(run)
    assert [s["step"] for s in selections] == [0, 3, 6]
    assert all(0.5 < s["share"] <= 0.6 and 0.2 < s["backward"] < 0.45 for s in selections)
    for step, active in enumerate(run.watch.active):
        assert active == selections[step // 3]["tensors"]
    assert len({tuple(s["tensors"]) for s in selections}) > 1


def test_only_selected_tensors_have_gradients_and_move(run):
    weights = [*run.watch.weights, dict(run.model.named_parameters())]
    for step, active in enumerate(run.watch.active):
        assert run.watch.graded[step] == set(active) and len(active) < len(weights[0])
        for name, before in weights[step].items():
            assert torch.equal(before, weights[step + 1][name]) == (name not in active), (
                step,
                name,
            )


def test_the_optimizer_has_state_for_what_was_trained_and_nothing_of_the_probe(run):
    trained: set[str] = set()
    for active, held in zip(run.watch.active, run.watch.states, strict=True):
        trained |= set(active)
        assert set(held) == trained


def test_the_end_holds_every_candidate(run):
    assert len(run.get_trained_tensors()) == len(list(run.model.parameters()))
    assert all(p.requires_grad for p in run.model.parameters())


@pytest.mark.parametrize(("choice", "at"), [("importance", 2), ("importance", 3), ("random", 5)])
def test_a_resumed_run_goes_on_to_the_bit(tmp_path, choice, at):
    """Within an interval, at its end, and within the next one."""
    shared = (
        *GREEN, f"trainable.choice={choice}", f"trainer.max_steps={STEPS}", "trainer.save_every=1",
        "trainer.keep_last=20",
    )  # fmt: skip
    whole = fitted(*shared, folder=tmp_path / "r")
    rest = fitted(*shared, resume=tmp_path / f"r/checkpoints/step-{at:06d}")
    assert rest.watch.active == whole.watch.active[at:]
    assert rest.watch.losses == whole.watch.losses[at:] and same(rest, whole)


def test_a_whole_budget_is_plain_training_bit_for_bit():
    every = fitted(*GREEN, "trainable.rho=1", "trainable.choice=last", "trainer.max_steps=4")
    plain = fitted("method=full", "trainer.max_steps=4")
    assert same(every, plain) and every.watch.losses == plain.watch.losses


def test_the_probe_leaves_weights_optimizer_and_random_numbers_as_they_were():
    run = fitted(*GREEN, "trainer.max_steps=2")
    names = [n for n, _ in run.model.named_parameters() if ".layers.6." in n or ".layers.5." in n]
    parameters = dict(run.model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    optimizer = run.optimizer_builder.optimizer
    weights = {n: p.detach().clone() for n, p in parameters.items()}
    before, generator = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    chosen = {name: parameters[name] for name in names}
    first = measure_importance(run, chosen, first_batch(run), 0.5)
    assert all(torch.equal(weights[n], p) and p.grad is None for n, p in parameters.items())
    assert torch.equal(generator, torch.get_rng_state())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    for index, state in before["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in state.items())
    assert measure_importance(run, chosen, first_batch(run), 0.5) == first


def test_importance_is_minus_gradient_times_the_steps_change():
    """By hand with SGD, whose first change is minus rate times gradient, with or without momentum."""
    run, _ = prepare("optimizer=sgd", "optimizer.lr=0.05", "trainer.max_grad_norm=null")
    group = run.optimizer_builder.optimizer.param_groups[0]
    assert not group["nesterov"] and group["weight_decay"] == 0
    parameters = dict(run.model.named_parameters())
    batch, size = first_batch(run), run.objective.denominator([first_batch(run)])
    measured = measure_importance(run, parameters, batch, 1.0)

    def gradients():
        run.model.zero_grad()
        (run.objective(run.model, batch).values.sum() / size).backward()
        return {n: p.grad.clone() for n, p in parameters.items()}

    run.model.eval()
    first = gradients()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.sub_(0.05 * first[name])
    second = gradients()
    expected = {n: 0.05 * float((second[n] * first[n]).sum()) for n in first}
    largest = max(map(abs, expected.values()))
    for name, value in measured.items():
        assert value == pytest.approx(expected[name] / largest, abs=1e-4), name
    assert max(map(abs, measured.values())) == 1


def test_importances_sum_to_the_loss_drop_of_a_small_step():
    """First order: with a small rate the loss falls by what the importances say."""
    run, _ = prepare("optimizer=sgd", "optimizer.lr=1e-3", "trainer.max_grad_norm=null")
    parameters, batch = dict(run.model.named_parameters()), first_batch(run)
    size = run.objective.denominator([batch])
    run.model.eval()
    loss = run.objective(run.model, batch).values.sum() / size
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    importance = measure_importance(run, parameters, batch, 1.0)
    head = "model.embed_tokens.weight"
    scale = 1e-3 * float((gradients[list(parameters).index(head)] ** 2).sum()) / importance[head]
    with torch.no_grad():
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.sub_(1e-3 * gradient)
        drop = float(loss - run.objective(run.model, batch).values.sum() / size)
    assert drop > 0 and scale * sum(importance.values()) == pytest.approx(drop, rel=0.1)


def test_choices_differ_and_fill_the_same_budget():
    chosen = {}
    for choice in ("importance", "uniform", "random", "last"):
        run, state = prepare(f"trainable.choice={choice}")
        costs = record_costs(run, run.trainable._load_batch(run))
        names = run.trainable.select(state)
        trained = costs.mask(run.trainable.candidates)
        share = costs.compute_step(costs.mask(names)) / costs.compute_step(trained)
        assert 0.57 < share <= 0.6, choice
        chosen[choice] = tuple(names)
        if choice == "last":
            first = np.flatnonzero(costs.mask(names))[0]
            assert costs.mask(names)[
                first + 9 :
            ].all()  # all but what the rest of the budget left out
    assert len(set(chosen.values())) >= 3


def test_draws_follow_the_seed():
    def draw(*overrides):
        run, state = prepare("trainable.choice=random", *overrides)
        return [run.trainable.select(state) for _ in range(2)]

    first = draw()
    assert first == draw() and first[0] != first[1]
    assert first != draw("seed=1") and first == draw("trainable.seed=0", "seed=1")


def test_adapters_can_be_selected_too():
    run = fitted("method=lora", *GREEN[1:], "trainable.rho=0.8", "trainer.max_steps=4")
    for active, graded in zip(run.watch.active, run.watch.graded, strict=True):
        assert graded == set(active) and all("lora_" in name for name in active)


def test_errors_name_cause_and_fix():
    with pytest.raises(UserError, match="forward pass and the cheapest one") as error:
        fitted(*GREEN, "trainable.rho=0.2", "trainer.max_steps=1")
    assert 0.3 < float(error.value.fix.split("=")[1]) < 0.6
    with pytest.raises(UserError, match="no share of a step"):
        build(*GREEN, "trainable.rho=1.5")
    run = build(*GREEN)
    run.accelerator.state.num_processes = 2
    try:
        with pytest.raises(UserError, match="2 processes"):
            run.trainable.setup(run)
    finally:
        run.accelerator.state.num_processes = 1
