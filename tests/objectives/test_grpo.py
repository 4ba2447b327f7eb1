"""GRPO: its formulas by hand, and rollouts of a real model."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.core.run import Run
from ftcli.jobs.train import resume, train
from ftcli.objectives.advantages import compute_advantages
from ftcli.objectives.base import Losses
from ftcli.objectives.grpo import GRPO
from ftcli.objectives.policy_loss import PolicyLoss, Tokens, k3
from ftcli.run.build import build_run

LONGEST = 6
JOB = (
    "method=lora", "method.r=2", "model.quantization=none", "model.dtype=float32",
    "trainer.precision=fp32", "data=e2e", "data.limit=12", "data.validation=null", "data.test=null",
    "eval=none", "objective=grpo", "+objective.rewards={length: {weight: 1, longest: 6}}",
    "+objective.num_generations=3", f"+objective.max_new_tokens={LONGEST}", "trainer.batch_size=2",
    "optimizer.lr=1e-2",
)  # fmt: skip


def of(*lengths, log_probs=None, old=None, advantages=None):
    """Tokens of answers with these lengths."""
    owner = torch.repeat_interleave(torch.tensor(lengths))
    log_probs = -torch.rand(len(owner)) if log_probs is None else log_probs
    values = torch.ones(len(lengths)) if advantages is None else torch.tensor(advantages)
    return Tokens(log_probs, old, None, torch.zeros(len(owner)), values, owner)


def batch_of(tokens):
    return {"advantages": tokens.advantages, "answers": len(tokens.advantages), "owner": tokens.owner,
            "targets": tokens.owner}  # fmt: skip


def loss(kind, tokens, **options):
    objective = GRPO(rewards={"length": 1}, loss_type=kind, max_new_tokens=LONGEST, **options)
    values, _ = objective.losses(tokens)
    return objective.numerator(Losses(values, tokens.owner)) / objective.denominator(
        [batch_of(tokens)]
    )


def test_advantages_are_differences_within_the_group_over_its_unbiased_deviation():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0])[:, None]
    actual = compute_advantages(rewards, torch.ones(1), 4)
    deviation = math.sqrt(4 * 0.25 / 3)
    assert actual[:4].tolist() == pytest.approx(
        [s * 0.5 / (deviation + 1e-4) for s in (1, -1, -1, 1)]
    )
    assert actual[4:].tolist() == [0, 0, 0, 0]  # the other group's level does not matter
    plain = compute_advantages(rewards, torch.ones(1), 4, scale="none")
    assert plain[:4].tolist() == [0.5, -0.5, -0.5, 0.5]
    batch = compute_advantages(rewards, torch.ones(1), 4, scale="batch")
    assert batch[0].item() == pytest.approx(0.5 / (rewards.std().item() + 1e-4))


def test_rewards_are_summed_with_weights_and_silent_ones_left_out():
    nan = math.nan
    rewards = torch.tensor([[1.0, 2.0], [0.0, nan], [nan, nan], [1.0, 0.0]])
    actual = compute_advantages(rewards, torch.tensor([1.0, 0.5]), 4, scale="none")
    total = [2.0, 0.0, 1.0]
    mean = sum(total) / 3
    assert actual.tolist() == pytest.approx([2 - mean, -mean, 0, 1 - mean])


def test_gdpo_normalises_each_reward_in_its_group_and_the_sum_over_the_batch():
    rewards = torch.tensor([[1.0, 10.0], [0.0, 30.0], [3.0, 5.0], [1.0, 5.0]])
    weights = torch.tensor([1.0, 0.5])
    grouped = rewards.view(2, 2, 2)
    normalised = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    total = (normalised.view(4, 2) * weights).sum(1)
    wanted = (total - total.mean()) / (total.std() + 1e-4)
    actual = compute_advantages(rewards, weights, 2, aggregation="normalize_then_sum")
    assert torch.allclose(actual, wanted)


def test_clipping_stops_the_gradient_only_where_the_ratio_went_too_far_the_right_way():
    ratios = torch.tensor([1.3, 1.3, 0.7, 0.7, 1.1])
    log_probs = ratios.log().requires_grad_()
    signs = [1.0, -1.0, 1.0, -1.0, 1.0]
    tokens = of(1, 1, 1, 1, 1, log_probs=log_probs, old=torch.zeros(5), advantages=signs)
    values, figures = PolicyLoss(loss_type="dapo").losses(tokens)
    assert values.tolist() == pytest.approx([-1.2, 1.3, -0.7, 0.8, -1.1])
    values.sum().backward()
    assert log_probs.grad.tolist() == pytest.approx([0, 1.3, -0.7, 0, -1.1])
    assert figures["clipped"].item() == pytest.approx(0.4)
    higher, _ = PolicyLoss(loss_type="dapo", epsilon_high=0.35).losses(tokens)
    assert higher[0].item() == pytest.approx(-1.3)
    capped, _ = PolicyLoss(loss_type="dapo", delta=1.25).losses(tokens)
    assert capped[1].item() == pytest.approx(1.25)


def test_at_the_policy_itself_the_value_is_0_and_the_gradient_is_not():
    values = [1.0, -1.0, 0.5, -0.5]
    log_probs = (-torch.rand(10)).requires_grad_()
    tokens = of(1, 2, 3, 4, log_probs=log_probs, advantages=values)
    value = loss("grpo", tokens)
    assert value.item() == pytest.approx(0, abs=1e-7)
    value.backward()
    wanted = [-a / n / 4 for a, n in zip(values, (1, 2, 3, 4), strict=True) for _ in range(n)]
    assert log_probs.grad.tolist() == pytest.approx(wanted)


def test_equal_rewards_give_no_gradient():
    log_probs = (-torch.rand(6)).requires_grad_()
    values = compute_advantages(torch.ones(3, 1), torch.ones(1), 3).tolist()
    loss("dapo", of(1, 2, 3, log_probs=log_probs, advantages=values)).backward()
    assert log_probs.grad.abs().max() == 0


def test_the_means_agree_when_every_answer_is_as_long_as_can_be_and_differ_otherwise():
    old = -torch.rand(2 * LONGEST)
    full = of(LONGEST, LONGEST, old=old, advantages=[1.0, -0.3])
    values = [loss(kind, full).item() for kind in ("grpo", "bnpo", "dr_grpo", "dapo")]
    assert values == pytest.approx([values[0]] * 4)
    short = of(1, LONGEST, old=old[: 1 + LONGEST], advantages=[1.0, -0.3])
    assert len({round(loss(kind, short).item(), 5) for kind in ("grpo", "dr_grpo", "dapo")}) == 3


def test_the_divergence_is_never_negative_and_0_at_the_reference():
    log_probs, reference = -3 * torch.rand(50), -3 * torch.rand(50)
    assert k3(log_probs, reference).min() >= 0
    assert k3(log_probs, log_probs).abs().max() == 0


def test_the_bonus_is_the_mean_entropy_whatever_the_loss_is_a_mean_over():
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo"):
        objective = GRPO(rewards={"length": 1}, loss_type=kind, entropy_coef=1.0)
        tokens = of(1, 3)._replace(entropy=torch.tensor([4.0, 1.0, 2.0, 3.0]))
        denominator = objective.denominator([batch_of(tokens)])
        values = objective._bonus(tokens, {"share": denominator})
        loss_value = objective.numerator(Losses(values, tokens.owner)) / denominator
        assert loss_value.item() == pytest.approx(2.5), kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": {}}, "no reward to compare"),
        ({"rewards": {"finalnumber": 1}}, "Did you mean final_number"),
        ({"rewards": {"length": {"wieght": 1}}}, "no option 'wieght'"),
        ({"rewards": {"length": "much"}}, "not a weight"),
        ({"num_generations": 1}, "below 2"),
        ({"loss_type": "cispo"}, "epsilon_high"),
        ({"top_entropy_quantile": 0.0}, "not a share"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GRPO(**{"rewards": {"length": 1}} | options)


@pytest.fixture(scope="module")
def build_small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")

    def make(*overrides: str) -> Run:
        composed = compose("qlora_mini", [*JOB, f"data.cache_dir={folder}", *overrides])
        validate_and_convert(composed)
        run = build_run(composed.config)
        run.load_model()
        run.objective.setup(run)
        run.model.eval()
        return run

    return make


def rolled(run: Run) -> list:
    torch.manual_seed(1)
    loader = run.build_loader()
    batches = [loader.batch([0, 1]), loader.batch([2, 3])]
    return run.objective.rollout(State(run, run.model, 1), batches)


@pytest.mark.parametrize("packing", ["flat", "none"])
def test_tokens_are_scored_as_the_model_alone_scores_them(build_small_run, packing):
    run = build_small_run(f"data.packing={packing}", "objective.share_prompts=false")
    batch = rolled(run)[0]
    assert batch["answers"] == 6 and batch["group"] == 3 and len(batch["advantages"]) == 6
    with torch.no_grad():
        scores, entropy = run.objective.token_log_probs(run.model, batch)
        prompt = run.build_loader().batch([0])
        ids = prompt["input_ids"][0][: int((prompt["labels"][0] >= 0).nonzero()[0])]
        for answer in range(3):
            tokens = batch["targets"][batch["owner"] == answer]
            logits = run.model(input_ids=torch.cat([ids, tokens])[None]).logits[0]
            logs = logits.log_softmax(-1)[len(ids) - 1 : -1]
            wanted = logs.gather(-1, tokens[:, None]).squeeze(-1)
            mine = batch["owner"] == answer
            assert torch.allclose(scores[mine], wanted, atol=1e-4)
            assert torch.allclose(entropy[mine], -(logs.exp() * logs).sum(-1), atol=1e-4)


def test_padding_changes_nothing(build_small_run):
    batches = [
        rolled(build_small_run(f"data.packing={packing}", "objective.share_prompts=false"))[0]
        for packing in ("flat", "none")
    ]
    run = build_small_run()
    with torch.no_grad():
        packed, padded = (run.objective.token_log_probs(run.model, batch)[0] for batch in batches)
    assert torch.equal(batches[0]["targets"], batches[1]["targets"])
    assert torch.allclose(packed, padded, atol=1e-4)


def test_answers_that_were_cut_count_but_teach_nothing(build_small_run):
    run = build_small_run("+objective.mask_truncated=true")
    batch = rolled(run)[0]
    whole = rolled(build_small_run())[0]
    stop = run.tokenizer.eos_token_id
    last = [int(whole["targets"][whole["owner"] == i][-1]) for i in range(6)]
    ended = {i for i in range(6) if last[i] == stop}
    assert set(batch["owner"].tolist()) == ended and batch["answers"] == 6
    assert batch["figures"]["truncated"] == pytest.approx(1 - len(ended) / 6)


def test_the_same_answers_are_used_for_as_many_steps_as_asked(build_small_run):
    run = build_small_run("+objective.num_iterations=2", "+objective.beta=0.1")
    first = rolled(run)
    assert all("old" in batch and "reference" in batch for batch in first)
    assert torch.allclose(first[0]["old"], first[0]["reference"], atol=1e-5)  # a fresh adapter
    assert run.objective.state_dict()["used"] == 1
    assert rolled(run) is first and run.objective.state_dict() == {}
    assert rolled(run) is not first


def test_a_run_lifts_its_reward_and_resumes_to_the_same_bits(tmp_path, monkeypatch):
    places = [f"run.dir={tmp_path}", f"data.cache_dir={tmp_path / 'tokens'}"]
    steps = [
        "trainer.max_steps=3",
        "trainer.save_every=1",
        "trainer.log_every=1",
        "trainer.keep_last=9",
    ]
    composed = compose("qlora_mini", [*JOB, *places, *steps, "+objective.num_iterations=2"])
    validate_and_convert(composed)
    result = train(composed)
    assert result["status"] == "finished"
    from ftcli.core.run_dir import RunDir

    run_dir = RunDir.open(result["run"])
    rows = [row for row in run_dir.metrics() if "loss" in row]
    assert {"reward", "reward.length", "entropy", "truncated", "clipped"} <= set(rows[0])
    samples = (run_dir.path / "samples" / "rollouts.jsonl").read_text().splitlines()
    assert {"prompt", "answer", "rewards", "advantage"} <= set(json.loads(samples[0]))
    whole = (run_dir.path / "adapter" / "adapter_model.safetensors").read_bytes()
    (run_dir.path / "result.json").unlink()
    resume(run_dir.path, checkpoint="step-000001")  # in the middle of two steps on the same answers
    assert (run_dir.path / "adapter" / "adapter_model.safetensors").read_bytes() == whole
