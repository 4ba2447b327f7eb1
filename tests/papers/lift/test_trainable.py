"""LIFT: which entries are chosen, that no other changes, and when they are chosen again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.optimizers.sparse_adamw import SparseAdamW
from ftcli.optimizers.state import elements
from ftcli.papers.lift.trainable import Lift, budget, find_targets
from ftcli.trainable import scores

IDS = torch.arange(3, 27).reshape(2, 12)
RATES = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6}


def llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **options))


def begin_run(model, policy, kind=SparseAdamW, steps=50, **options):
    """Set up policy and optimizer; the state of the loop before the first step."""
    optimizer = kind([p for p in model.parameters() if p.requires_grad], **RATES, **options)
    run = SimpleNamespace(model=model, optimizer_builder=SimpleNamespace(optimizer=optimizer))
    policy.setup(run)
    return State(run, model, steps)


def step(policy, state, batch=IDS):
    policy.before_step(state)
    state.model(input_ids=batch, labels=batch).loss.backward()
    policy.after_backward(state)
    state.run.optimizer_builder.optimizer.step()
    state.run.optimizer_builder.optimizer.zero_grad()
    state.step += 1
    policy.after_step(state)


def supports(state, policy):
    optimizer = state.run.optimizer_builder.optimizer
    return {name: optimizer.support(p).clone() for name, p in policy._targets.items()}


def copy_parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_a_planted_rank_one_matrix_is_kept_where_its_factors_are_large():
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(30, 1, generator=generator), torch.randn(1, 20, generator=generator)
    noisy = 10 * u @ v + 0.01 * torch.randn(30, 20, generator=generator)
    expected = scores.find_top((u @ v).abs(), 50)
    for randomised in (False, True):
        chosen = scores.find_top(scores.approximate_low_rank(noisy, 1, randomised).abs(), 50)
        assert torch.isin(chosen, expected).sum() >= 49  # noise may swap the last two
    exact = scores.find_top(scores.approximate_low_rank(u @ v, 1).abs(), 50)
    assert torch.equal(exact, expected)


def test_at_full_rank_it_is_weight_magnitude_and_below_it_is_not():
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
    plain = scores.find_top(weight.abs(), 60)
    assert torch.equal(scores.find_top(scores.approximate_low_rank(weight, 16).abs(), 60), plain)
    reduced = scores.find_top(scores.approximate_low_rank(weight, 2).abs(), 60)
    assert 0.2 < torch.isin(reduced, plain).float().mean() < 0.8
    transposed = scores.approximate_low_rank(weight.T.contiguous(), 2)  # how GPT-2 stores a layer
    assert (transposed.T - scores.approximate_low_rank(weight, 2)).abs().max() < 5e-5  # rounding


def test_half_precision_is_decomposed_in_single_and_draws_leave_the_generator_alone():
    weight = torch.randn(12, 8).bfloat16()
    assert scores.approximate_low_rank(weight, 3).dtype == torch.float32
    before = torch.get_rng_state()
    first, second = (scores.approximate_low_rank(weight, 2, True, seed=4) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(before, torch.get_rng_state())
    assert torch.equal(scores.draw_random(weight, 3), scores.draw_random(weight, 3))


def test_of_equal_values_the_first_are_taken():
    score = torch.tensor([[1.0, 2.0, 2.0], [2.0, 0.0, 3.0]])
    assert scores.find_top(score, 3).tolist() == [1, 2, 5]
    assert scores.find_top(score, 9).tolist() == list(range(6))
    assert scores.find_top(torch.zeros(4), 2).tolist() == [0, 1]


def test_targets_are_the_linears_without_the_head_in_any_layout():
    names = [linear.name for linear in find_targets(llama())]
    assert len(names) == 14 and not any("lm_head" in name or "embed" in name for name in names)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=8))
    assert [li.kind for li in find_targets(gpt2)] == ["conv1d"] * 4
    model = llama(attention_bias=True).requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)
    assert [li.name for li in find_targets(model)] == [
        f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")
    ]


@pytest.mark.parametrize("score", ["lift", "weight", "grad", "movement", "random"])
def test_exactly_the_budget_moves_and_everything_else_keeps_its_bits(score):
    model, policy = llama(attention_bias=True), Lift(rank=2, filter_rank=4, score=score, interval=5)
    before = copy_parameters(model)
    state = begin_run(model, policy)
    for _ in range(3):
        step(policy, state)
    chosen, after = supports(state, policy), copy_parameters(model)
    for name, parameter in before.items():
        moved = (after[name] != parameter).flatten().nonzero().flatten()
        if name not in chosen:
            assert not len(moved), name
            continue
        assert len(chosen[name]) == min(sum(parameter.shape) * 2, parameter.numel())
        assert torch.isin(moved, chosen[name]).all() and len(moved) > 0.9 * len(chosen[name])
    assert all(not p.requires_grad for p in policy._others) and len(policy._others) == 15
    k = sum(budget(p, 2) for p in policy._targets.values())
    assert (
        elements(state.run.optimizer_builder.optimizer) == 2 * k + k
    )  # two moments and the indices


def test_with_every_entry_it_is_dense_adam_of_the_same_form():
    model, twin = llama(), llama()
    policy = Lift(rank=10**4)
    state = begin_run(model, policy)
    dense = SparseAdamW([linear.module.weight for linear in find_targets(twin)], **RATES)
    for _ in range(4):
        step(policy, state)
        twin(input_ids=IDS, labels=IDS).loss.backward()
        dense.step()
        twin.zero_grad()
    assert all(torch.equal(p, copy_parameters(twin)[n]) for n, p in copy_parameters(model).items())


@pytest.mark.parametrize("interval", [3, None])
def test_entries_are_chosen_again_from_current_weights_one_step_before_the_interval(interval):
    model, policy = llama(), Lift(rank=2, filter_rank=4, interval=interval)
    state = begin_run(model, policy)
    changed, before = [], supports(state, policy)
    for _ in range(9):
        step(policy, state)
        current = supports(state, policy)
        if any(not torch.equal(current[n], before[n]) for n in current):
            changed.append(state.step)
        before = current
        if changed[-1:] == [state.step]:
            for name, parameter in policy._targets.items():
                due = scores.find_top(
                    scores.approximate_low_rank(parameter, 4).abs(), budget(parameter, 2)
                )
                assert torch.equal(current[name], due)
    assert changed == ([2, 5, 8] if interval else [])


def test_moments_of_entries_that_stay_are_kept_and_of_new_ones_zero():
    model, policy = llama(), Lift(rank=2, filter_rank=4, interval=4)
    state = begin_run(model, policy)
    optimizer = state.run.optimizer_builder.optimizer
    step(policy, state)
    step(policy, state)
    old, before = supports(state, policy), {}
    due, policy.interval = policy.interval, None
    step(policy, state)  # step 3 ends without a choice, so that its moments can be seen
    before = {n: optimizer.state[p]["exp_avg"].clone() for n, p in policy._targets.items()}
    policy.interval = due
    policy.after_step(state)
    for name, parameter in policy._targets.items():
        current, moments = optimizer.support(parameter), optimizer.state[parameter]["exp_avg"]
        stays = torch.isin(current, old[name])
        assert torch.equal(moments[stays], before[name][torch.isin(old[name], current)])
        assert not moments[~stays].any() and (~stays).any()
        assert optimizer.state[parameter]["step"] == 3


def test_scores_of_gradients_are_taken_before_anything_moves():
    model, policy = llama(), Lift(rank=1, score="grad")
    state = begin_run(model, policy)
    twin = llama()
    twin(input_ids=IDS, labels=IDS).loss.backward()
    step(policy, state)
    for linear in find_targets(twin):
        gradient = linear.module.weight.grad
        expected = scores.find_top(gradient.abs(), budget(gradient, 1))
        parameter = policy._targets[f"{linear.name}.weight"]
        assert torch.equal(state.run.optimizer_builder.optimizer.support(parameter), expected)


def test_movement_sums_minus_weight_times_gradient():
    model, policy = llama(), Lift(rank=1, score="movement", interval=3)
    state, sums = begin_run(model, policy), {}
    for _ in range(2):
        policy.before_step(state)
        before = copy_parameters(model)
        model(input_ids=IDS, labels=IDS).loss.backward()
        for name, p in policy._targets.items():
            sums[name] = sums.get(name, 0) - before[name] * p.grad
        policy.after_backward(state)
        state.run.optimizer_builder.optimizer.step()
        model.zero_grad()
        state.step += 1
        policy.after_step(state)
    for name, p in policy._targets.items():
        expected = scores.find_top(sums[name], budget(p, 1))
        assert torch.equal(state.run.optimizer_builder.optimizer.support(p), expected)


@pytest.mark.parametrize("score", ["lift", "random", "movement", "grad"])
def test_a_resumed_run_goes_on_to_the_bit(score):
    batches = [
        torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(i)) for i in range(9)
    ]
    options = {"rank": 2, "filter_rank": 4, "score": score, "interval": 3, "svd": "lowrank"}
    model, policy = llama(), Lift(**options)
    state = begin_run(model, policy)
    for batch in batches[:4]:
        step(policy, state, batch)
    twin, resumed = llama(), Lift(**options)
    later = begin_run(twin, resumed)
    twin.load_state_dict(model.state_dict())
    later.run.optimizer_builder.optimizer.load_state_dict(
        state.run.optimizer_builder.optimizer.state_dict()
    )
    if policy.state_dict():
        resumed.load_state_dict(policy.state_dict())
    later.step = 4
    for batch in batches[4:]:
        step(policy, state, batch)
        step(resumed, later, batch)
    assert all(torch.equal(p, copy_parameters(twin)[n]) for n, p in copy_parameters(model).items())
    current, resumed_supports = supports(state, policy), supports(later, resumed)
    assert all(torch.equal(current[name], resumed_supports[name]) for name in current)


def test_errors_name_cause_and_fix():
    with pytest.raises(UserError, match="AdamW cannot") as error:
        begin_run(llama(), Lift(), torch.optim.AdamW)
    assert error.value.fix == "optimizer=sparse_adamw"
    model = llama().requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(UserError, match="no linear layer"):
        begin_run(model, Lift())


def test_a_run_keeps_what_it_does_not_train(train_tiny):
    """In a run of the train job: other matrices, norms and embeddings of the artefact are the base's."""
    from ftcli.run.build import open_run

    folder = train_tiny(
        "method=full", "model.quantization=none", "trainable=lift", "trainable.rank=2",
        "trainable.interval=2", "optimizer=sparse_adamw", "eval=none",
    )  # fmt: skip
    run = open_run(folder)
    base = dict(run.model_source.load().named_parameters())
    moved = {n: int((p != base[n]).sum()) for n, p in run.model.named_parameters()}
    linear = {f"{li.name}.weight" for li in find_targets(run.model.requires_grad_(True))}
    assert {name for name, count in moved.items() if count} == linear
    assert all(moved[n] <= 2 * budget(base[n], 2) for n in linear)
    assert isinstance(run.model, nn.Module)
