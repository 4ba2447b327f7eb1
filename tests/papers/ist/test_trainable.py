"""IST's and RST's promises as numbers, on real runs."""

from __future__ import annotations

import json

import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.papers.ist.random import Rst
from ftcli.papers.ist.scaling import find_scaled_layers
from ftcli.papers.ist.trainable import update_scores
from ftcli.reproduce.measures.peak_saved_activation_bytes import Ledger
from ftcli.reproduce.probe import first_batch
from tests.trainable.small import block_of, build, fitted, same

LORA = ("method=lora", "method.r=2")
IST = (*LORA, "trainable=ist", "trainable.interval=2", "trainable.score_batch=4")
STEPS = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(*IST, f"trainer.max_steps={STEPS}", folder=tmp_path_factory.mktemp("ist") / "r")


def events(run, kind: str) -> list[dict]:
    lines = (run.dir.path / "events.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == kind]


def test_a_quarter_of_the_blocks_has_gradients_at_each_step(run):
    for blocks, graded in zip(run.watch.active, run.watch.graded, strict=True):
        assert len(blocks) == 2 and {block_of(n) for n in graded} == set(blocks)
        assert len(graded) == 2 * 7 * 2  # A and B of seven linears in two blocks
    assert len({tuple(blocks) for blocks in run.watch.active}) > 1


def test_scores_are_learned_every_interval_and_not_at_step_0(run):
    rounds = events(run, "layer_scores")
    assert [r["step"] for r in rounds] == [2, 4, 6]
    assert all(len(r["losses"]) == 3 and len(r["scores"]) == 8 for r in rounds)
    assert rounds[-1]["scores"] == run.trainable.scores.tolist() and any(rounds[-1]["scores"])
    assert [e["blocks"] for e in events(run, "active_blocks")][-1] == run.watch.active[-1]


def test_state_of_inactive_adapters_is_kept(run):
    seen = {block for blocks in run.watch.active for block in blocks}
    assert {block_of(n) for n in run.watch.states[-1]} == seen and len(seen) > 2


def test_what_is_saved_has_all_layers(run):
    assert {block_of(n) for n in run.get_trained_tensors()} == set(range(8))


def test_the_update_is_the_papers():
    """s_i += lr * (exp(-l_c) - mean) * p_i (1 - p_i), p = sigmoid(s) before the round."""
    scores = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    sets = [torch.tensor([0, 1]), torch.tensor([1, 2])]
    losses = torch.tensor([1.0, 3.0], dtype=torch.float64)
    rewards = torch.exp(-losses) - torch.exp(-losses).mean()
    p = 1 / (1 + torch.exp(-scores))
    expected = scores.clone()
    for i, reward in ((0, rewards[0]), (1, rewards[0]), (1, rewards[1]), (2, rewards[1])):
        expected[i] += 10 * reward * p[i] * (1 - p[i])
    assert (update_scores(scores, sets, losses, 10.0) - expected).abs().max() < 1e-15
    assert expected[0] > 0 > expected[2] + 2  # a high score: damping did not hurt


def test_equal_losses_teach_nothing():
    scores = torch.tensor([0.3, -1.0, 0.0], dtype=torch.float64)
    sets = [torch.tensor([0]), torch.tensor([1]), torch.tensor([2])]
    same_losses = torch.full((3,), 1.7, dtype=torch.float64)
    assert (update_scores(scores, sets, same_losses, 10.0) - scores).abs().max() < 1e-15


def test_blocks_whose_damping_hurts_are_trained_more(monkeypatch):
    """A stub: the loss is 1 for each of blocks 2 and 5 that is damped, else 0."""
    run = fitted(*IST, "trainer.max_steps=1")
    policy = run.trainable
    policy.setup(run)

    def losses(_, sets):
        return torch.tensor([float(sum(i in (2, 5) for i in s.tolist())) for s in sets]).double()

    monkeypatch.setattr(policy, "_losses", losses)
    state = type("S", (), {"run": run, "step": 2})
    counts = torch.zeros(8)
    for _ in range(300):
        for block in policy.choose(state):
            counts[block] += 1
    assert set(counts.topk(2).indices.tolist()) == {2, 5}
    assert counts[[2, 5]].min() > 2 * counts.median()


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_scoring_leaves_scales_data_and_random_numbers_alone(method):
    """All blocks trained: scoring or not, dropout or not, the run is plain LoRA to the last bit."""
    shared = (f"method={method}", "method.r=2", "method.lora_dropout=0.3", "trainer.max_steps=4")
    scoring = fitted(*shared, *IST[2:], "trainable.train_fraction=1.0")
    plain = fitted(*shared)
    assert scoring.trainable.rounds == 1 and scoring.trainable.scores.any()
    assert same(scoring, plain) and scoring.watch.losses == plain.watch.losses
    layers = find_scaled_layers(scoring.model, range(8))
    assert [x.scaling for x in layers] == [
        x.scaling for x in find_scaled_layers(plain.model, range(8))
    ]


def test_random_tuning_of_all_blocks_is_plain_lora():
    every = fitted(*LORA, "trainable=rst", "trainable.train_fraction=1.0", "trainer.max_steps=3")
    assert same(every, fitted(*LORA, "trainer.max_steps=3"))


def test_scoring_is_done_without_dropout_gradients_or_repetition(monkeypatch):
    run = build(*IST, "method.lora_dropout=0.5")
    seen = []

    def watched(objective, model, batch):
        seen.append((model.training, torch.is_grad_enabled(), batch["indices"]))
        return original(objective, model, batch)

    original = NextTokenPrediction.__call__
    monkeypatch.setattr(NextTokenPrediction, "__call__", watched)
    policy = run.trainable
    policy.setup(run)
    run.model.train()
    sets = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3])]
    first = policy._losses(run, sets)
    policy.rounds = 1
    policy._losses(run, sets)
    assert first[0] == first[1] and run.model.training
    assert [x[:2] for x in seen] == [(False, False)] * 4
    assert seen[0][2] == seen[1][2] != seen[2][2] and len(seen[0][2]) == 4


@pytest.mark.parametrize("at", [3, 4])
def test_resume_goes_on_with_the_same_scores_and_blocks(tmp_path, at):
    shared = (*IST, f"trainer.max_steps={STEPS}", "trainer.save_every=1", "trainer.keep_last=20")
    whole = fitted(*shared, folder=tmp_path / "r")
    rest = fitted(*shared, resume=tmp_path / f"r/checkpoints/step-{at:06d}")
    assert rest.watch.active == whole.watch.active[at:]
    assert torch.equal(rest.trainable.scores, whole.trainable.scores)
    assert rest.watch.losses == whole.watch.losses[at:] and same(rest, whole)


def saved_bytes(run, blocks: list[int]) -> tuple[int, list[bool]]:
    """Bytes kept for backward, and whether each block's output requires a gradient."""
    policy = Rst()
    policy.setup(run)
    policy.active = blocks
    on, off = policy.split()
    for parameter in off:
        parameter.requires_grad_(False)
    needed: list[bool] = []
    layers = run.model.get_base_model().model.layers
    hooks = [
        x.register_forward_hook(lambda m, a, out: needed.append(out.requires_grad)) for x in layers
    ]
    ledger = Ledger(run.model)
    ledger.before_step(None)
    with torch.autograd.graph.saved_tensors_hooks(ledger.record, lambda saved: saved.tensor):
        run.objective(run.model, first_batch(run)).values.sum().backward()
    for hook in hooks:
        hook.remove()
    for parameter in [*on, *off]:
        parameter.requires_grad_(True)
    return ledger.peaks[0], needed


def test_nothing_is_kept_below_the_lowest_trained_block():
    run = build(*LORA)
    run.model.train()
    every, needed = saved_bytes(run, list(range(8)))
    assert needed == [True] * 8
    ends, needed = saved_bytes(run, [0, 7])
    assert needed == [True] * 8
    upper, needed = saved_bytes(run, [4, 7])
    assert needed == [False] * 4 + [True] * 4
    last, needed = saved_bytes(run, [7])
    assert needed == [False] * 7 + [True]
    assert last < upper < ends < every
    assert upper < 0.75 * every


def test_what_has_no_scale_and_what_leaves_no_block_is_refused():
    for method in ("ia3", "full"):
        with pytest.raises(UserError, match="cannot be damped"):
            fitted(f"method={method}", "trainable=ist", "trainer.max_steps=1")
    with pytest.raises(UserError, match=r"0\.1 of 8 blocks, rounded down, is 0"):
        fitted(*LORA, "trainable=rst", "trainable.train_fraction=0.1", "trainer.max_steps=1")
