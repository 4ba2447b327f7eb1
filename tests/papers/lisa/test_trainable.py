"""LISA's properties on real runs: draws, gradients, frozen weights, state of the optimizer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy
from ftcli.objectives.causal_lm import model_inputs
from ftcli.papers.lisa.trainable import Lisa
from ftcli.reproduce.probe import first_batch
from ftcli.trainable.top_layers import TopLayers
from tests.trainable.small import block_of, build, fitted, same

LISA = ("method=full", "trainable=lisa", "trainable.gamma=2", "trainable.interval=3")
STEPS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(*LISA, f"trainer.max_steps={STEPS}", folder=tmp_path_factory.mktemp("lisa") / "r")


def test_gamma_blocks_move_and_change_only_at_multiples(run):
    active = run.watch.active
    assert all(len(set(blocks)) == 2 and blocks == sorted(blocks) for blocks in active)
    changes = [step for step in range(1, STEPS) if active[step] != active[step - 1]]
    assert changes and all(step % 3 == 0 for step in changes)


def test_gradients_exist_exactly_for_active_blocks_and_the_outside(run):
    names = run.watch.weights[0]
    for blocks, graded in zip(run.watch.active, run.watch.graded, strict=True):
        assert graded == {n for n in names if block_of(n) is None or block_of(n) in blocks}


def test_frozen_blocks_are_bit_identical_over_a_window_and_active_ones_move(run):
    weights = [*run.watch.weights, dict(run.model.named_parameters())]
    for step, blocks in enumerate(run.watch.active):
        for name, before in weights[step].items():
            moves = block_of(name) is None or block_of(name) in blocks
            assert torch.equal(before, weights[step + 1][name]) != moves, (step, name)


def test_dropped_moments_exist_only_for_what_moves_at_every_step(run):
    for graded, held in zip(run.watch.graded, run.watch.states, strict=True):
        assert held == dict.fromkeys(graded, 2)  # AdamW's two moments


def test_the_draws_are_on_record(run):
    lines = [json.loads(x) for x in (run.dir.path / "events.jsonl").read_text().splitlines()]
    draws = {x["step"]: x["blocks"] for x in lines if x["event"] == "active_blocks"}
    assert all(step % 3 == 0 for step in draws)
    assert draws == {step: run.watch.active[step] for step in draws} and 0 in draws


def test_a_checkpoint_and_the_end_hold_every_candidate(run):
    assert len(run.get_trained_tensors()) == len(list(run.model.parameters()))
    assert all(p.requires_grad for p in run.model.parameters())


def test_kept_state_stays_where_a_block_leaves():
    run = fitted(*LISA, "trainable.state_on_switch=keep", "trainer.max_steps=4")
    assert run.watch.active[0] != run.watch.active[3]
    held = {block_of(n) for n in run.watch.states[3]} - {None}
    assert held == {*run.watch.active[0], *run.watch.active[3]}


def test_offloaded_state_comes_back_with_its_block():
    """Keep and offload train the same; drop does not, once a block has come back."""
    shared = (*LISA[:2], "trainable.gamma=6", "trainable.interval=1", "trainer.max_steps=4")
    keep, offload, drop = (
        fitted(*shared, f"trainable.state_on_switch={how}") for how in ("keep", "offload", "drop")
    )
    assert same(keep, offload) and not same(keep, drop)
    assert keep.watch.active == drop.watch.active


@pytest.mark.parametrize("how", ["keep", "drop"])
def test_all_blocks_at_every_step_is_plain_adamw_bit_for_bit(how):
    every = ("trainable.gamma=8", "trainable.interval=1", f"trainable.state_on_switch={how}")
    lisa = fitted(*LISA[:2], *every, "trainer.max_steps=3")
    plain = fitted("method=full", "trainer.max_steps=3")
    assert same(lisa, plain) and lisa.watch.losses == plain.watch.losses


def test_adapters_can_be_sampled_too():
    run = fitted("method=lora", *LISA[1:], "trainer.max_steps=4")
    for blocks, graded in zip(run.watch.active, run.watch.graded, strict=True):
        assert {block_of(n) for n in graded} == set(blocks)
        assert len(graded) == 2 * 7 * 2  # A and B of seven linears in two blocks


@pytest.mark.parametrize("at", [4, 3, 6])  # within a window, at its end, at the next one's
def test_resume_draws_the_same_blocks_and_ends_in_the_same_weights(tmp_path, at):
    shared = (*LISA, f"trainer.max_steps={STEPS}", "trainer.save_every=1", "trainer.keep_last=20")
    whole = fitted(*shared, folder=tmp_path / "r")
    rest = fitted(*shared, resume=tmp_path / f"r/checkpoints/step-{at:06d}")
    assert rest.watch.active == whole.watch.active[at:]
    assert rest.watch.states == whole.watch.states[at:]
    assert rest.watch.losses == whole.watch.losses[at:] and same(rest, whole)


def policy(how, model, seed: int = 0, processes: int = 1):
    accelerator = SimpleNamespace(num_processes=processes)
    how.setup(SimpleNamespace(model=model, seed=seed, accelerator=accelerator))
    return how


@pytest.fixture(scope="module")
def full():
    return build("method=full")


def test_every_block_is_drawn_as_often(full):
    """Chi-square of 8 blocks, 7 degrees of freedom: 99.9 % lie below 24.3."""
    gamma, blocks, rounds = 2, 8, 2000
    lisa = policy(Lisa(gamma), full.model)
    counts = [0] * blocks
    for _ in range(rounds):
        for block in lisa.choose(None):
            counts[block] += 1
    share = gamma / blocks
    variance = rounds * share * (1 - share)
    statistic = sum((c - rounds * share) ** 2 for c in counts) / variance * (blocks - 1) / blocks
    assert statistic < 24.3


def test_seeds_of_the_run_and_of_the_policy_decide(full):
    def draw_ten(lisa):
        return [lisa.choose(None) for _ in range(10)]

    first = draw_ten(policy(Lisa(), full.model, seed=1))
    assert first == draw_ten(policy(Lisa(), full.model, seed=1))
    assert first != draw_ten(policy(Lisa(), full.model, seed=2))
    assert first == draw_ten(policy(Lisa(seed=1), full.model, seed=2))


def test_always_on_narrows_what_lies_outside():
    run = fitted(*LISA, "trainable.always_on=['*.embed_tokens.*']", "trainer.max_steps=2")
    outside = {n for graded in run.watch.graded for n in graded if block_of(n) is None}
    assert outside == {"model.embed_tokens.weight"}  # which is the head too; not the norm


def test_errors_name_the_cause(full):
    with pytest.raises(UserError, match="9 of 8 blocks"):
        policy(Lisa(gamma=9), full.model)
    with pytest.raises(UserError, match="'embed_token' matches 0 of"):
        policy(Lisa(always_on=["embed_token"]), full.model)
    with pytest.raises(UserError, match="Lisa changes which parameters have gradients, and 2"):
        policy(Lisa(), full.model, processes=2)


def test_no_weight_gradient_is_computed_for_frozen_blocks(full):
    """Backward passes through them, since the embedding moves, at half the work of their linears."""
    full.method.prepare(full.model)
    batch = first_batch(full)
    tokens = model_inputs(batch, torch.device("cpu"))["input_ids"].numel()  # filled up to 64s

    def work() -> int:
        full.model.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counter:
            full.objective(full.model, batch).values.sum().backward()
        return counter.get_total_flops()

    every = work()
    top = policy(TopLayers(2), full.model)
    optimizer = SimpleNamespace(optimizer=torch.optim.AdamW(full.model.parameters()))
    state = SimpleNamespace(
        step=0, batch=0, epoch=0, run=SimpleNamespace(optimizer_builder=optimizer, dir=None)
    )
    top.before_step(state)
    frozen = [li for li in Anatomy(full.model).block_linears if block_of(li.name) < 6]
    assert every - work() == 2 * tokens * sum(li.weights for li in frozen)
    assert full.model.model.embed_tokens.weight.grad is not None
    top.on_train_end(state)


def test_top_layers_stay_the_last_ones():
    run = fitted("method=full", "trainable=top_layers", "trainable.count=3", "trainer.max_steps=3")
    assert run.watch.active == [[5, 6, 7]] * 3
    with pytest.raises(UserError, match="0 of 8 blocks"):
        policy(TopLayers(0), run.model)
