"""DPO in real runs: where it begins, what it measures from, and that cutting a batch changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ftcli.config import compose, validate_and_convert
from ftcli.core.callback import State
from ftcli.core.errors import UserError
from ftcli.core.run import Run
from ftcli.evaluation.preference import Preference
from ftcli.jobs.train import resume, train
from ftcli.objectives.dpo import DPO
from ftcli.objectives.preference_losses import LOSSES
from ftcli.run.build import build_run, open_run
from ftcli.trainer.loss import StepLoss
from tests.objectives.pairs import Logits, batch_of, logits_of

SMALL = (
    "method=lora", "objective=dpo", "data=e2e_pairs", "data.pairs=true", "data.limit=40",
    "data.validation=0.2", "data.test=null", "eval=none", "model.quantization=none",
    "trainer.precision=fp32", "model.dtype=float32", "trainer.batch_size=4", "trainer.max_steps=2",
    "trainer.log_every=1", "trainer.eval_every=null", "optimizer.lr=1e-3",
)  # fmt: skip
LN2 = math.log(2)


def build_small_run(*overrides: str, moved: bool = True) -> Run:
    """A run, set up, as if it had been trained."""
    composed = compose("qlora_mini", [*SMALL, *overrides])
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    run.objective.setup(run)
    generator = torch.Generator().manual_seed(5)
    if moved:
        with torch.no_grad():
            for p in run.model.parameters():
                if p.requires_grad:
                    p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p))
    run.model.train()
    return run


def gradients(run: Run, batches) -> tuple[float, torch.Tensor]:
    """Loss and gradients of one step as the loop takes them."""
    run.model.zero_grad()
    batches = run.objective.rollout(State(run, run.model, 1), batches)
    step = StepLoss(run, run.model, batches, lambda value: value)
    total = 0.0
    for batch in batches:
        loss = step(batch)
        loss.backward()
        total += loss.item()
    named = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
    return total, torch.cat(named)


def cut(loader, sizes) -> list:
    """Micro-batches of so many pairs."""
    rows = iter(range(2 * sum(sizes)))
    return [loader.batch([next(rows) for _ in range(2 * size)]) for size in sizes]


@pytest.mark.parametrize("packing", ["flat", "none"])
def test_at_first_the_loss_is_log_2_and_rewards_are_0(packing):
    run = build_small_run(f"data.packing={packing}", moved=False)
    losses = run.objective(run.model, run.build_loader().batch(range(8)))
    assert losses.values.tolist() == pytest.approx([LN2] * 4, abs=1e-6)
    assert all(abs(value.item()) < 1e-5 for value in losses.metrics.values())


def test_four_times_two_is_one_times_eight_packed_or_padded_or_recomputed():
    run = build_small_run("+objective.loss_weights=[1.0,0.5]", "objective.loss_type=[sigmoid,sft]")
    loader = run.build_loader()
    loss, wanted = gradients(run, cut(loader, [8]))
    variants = {
        "cut": gradients(run, cut(loader, [2, 2, 2, 2])),
        "uneven": gradients(run, cut(loader, [1, 5, 2])),
    }
    loader.packing = "none"
    variants["padded"] = gradients(run, cut(loader, [3, 5]))
    loader.packing = "flat"
    run.model.activation_checkpointing_enable({"use_reentrant": False})
    variants["recomputed"] = gradients(run, cut(loader, [4, 4]))
    run.model.gradient_checkpointing_disable()
    run.objective.chunk_size = 16
    variants["in chunks"] = gradients(run, cut(loader, [8]))
    for name, (other, gradient) in variants.items():
        assert other == pytest.approx(loss, abs=1e-5), name
        assert (gradient - wanted).abs().max() < 1e-5, name


@pytest.mark.parametrize("method", [["method=lora"], ["method=full"]])
def test_the_precomputed_reference_is_the_live_one(method):
    run = build_small_run(*method, "objective.precompute=true")
    (batch,) = batches = cut(run.build_loader(), [4])
    live = run.objective(run.model, batch).values
    (known,) = run.objective.rollout(State(run, run.model, 1), batches)
    assert known["reference"].shape == (4, 2)
    assert (run.objective(run.model, known).values - live).abs().max() < 1e-5
    assert (live - LN2).abs().max() > 1e-3
    resumed = build_small_run(*method, "objective.precompute=true")
    resumed.objective.load_state_dict(run.objective.state_dict())
    resumed.objective.scores._compute_table = None  # it need not be asked
    assert torch.equal(
        resumed.objective.with_reference(batch, "train")["reference"], known["reference"]
    )


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path):
    options = [
        "objective.precompute=true",
        "trainer.max_steps=4",
        "trainer.save_every=2",
        "trainer.eval_first=false",
    ]
    folders = []
    for name in ("whole", "stopped"):
        composed = compose("qlora_mini", [*SMALL, *options, f"run.dir={tmp_path}/{name}"])
        validate_and_convert(composed)
        folders.append(train(composed)["run"])
    whole, stopped = folders
    record = Path(stopped) / "result.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "stopped"}))
    resume(stopped, checkpoint="step-000002")
    states = [open_run(folder).get_trained_tensors() for folder in (whole, stopped)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_held_out_rewards_of_this_and_of_other_objectives():
    run = build_small_run("objective.precompute=true")
    scores = Preference()(run)
    fresh = build_small_run("objective.precompute=true", moved=False)
    before = Preference()(fresh)
    assert before["loss"] == pytest.approx(LN2, abs=1e-6) and before[
        "rewards/margin"
    ] == pytest.approx(0, abs=1e-5)
    assert scores["rewards/margin"] == pytest.approx(
        scores["rewards/chosen"] - scores["rewards/rejected"], abs=1e-5
    )
    other = build_small_run("objective=causal_lm", "data.pairs=false")
    scores_after = Preference(beta=0.1)(other)
    assert "loss" not in scores_after and scores_after["likelier"] == pytest.approx(
        scores["likelier"]
    )
    assert scores_after["rewards/margin"] == pytest.approx(scores["rewards/margin"], abs=1e-4)


def test_padding_and_the_prompts_logits_do_not_matter():
    objective, batch = DPO(), batch_of([(3, 2), (1, 4)])
    logits = logits_of(batch, 1)
    batch["reference"] = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]])
    wanted = objective(Logits(logits), batch).values
    changed = logits.clone()
    changed[:, 0] += 5 * torch.randn(changed[:, 0].shape)  # predicts the prompt's second token
    changed[:, -1] -= 9  # behind every answer
    assert torch.equal(objective(Logits(changed), batch).values, wanted)
    padded = {k: torch.nn.functional.pad(v, (0, 3), value=-100 if k == "labels" else 0)
              for k, v in batch.items() if k in ("input_ids", "labels", "position_ids", "attention_mask")}  # fmt: skip
    longer = torch.cat([logits, torch.randn(4, 3, logits.shape[-1])], 1)
    assert torch.equal(objective(Logits(longer), batch | padded).values, wanted)


def test_dropout_is_off_unless_it_is_wanted():
    run = build_small_run("+method.lora_dropout=0.5")
    batch = run.build_loader().batch(range(4))
    assert torch.equal(*(run.objective(run.model, batch).values for _ in range(2)))
    noisy = build_small_run("+method.lora_dropout=0.5", "objective.dropout=true")
    assert not torch.equal(*(noisy.objective(noisy.model, batch).values for _ in range(2)))


WRONG = [
    ({"loss_type": "sigmod"}, "there is no loss"),
    ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "1 weights for 2 losses"),
    ({"loss_type": "exo_pair"}, "above 0"),
    ({"loss_type": "robust", "label_smoothing": 0.5}, "below 0.5"),
    ({"loss_type": "nca_pair", "f_divergence": "forward_kl"}, "not defined for nca_pair"),
    ({"loss_type": "aot", "weighting": True}, "not a sum over pairs"),
    ({"beta": 0.0}, "above 0"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_what_means_nothing_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        DPO(**options)


def test_rows_that_are_no_pairs_are_refused_with_what_to_do():
    with pytest.raises(UserError, match="data.pairs=true"):
        validate_and_convert(compose("qlora_mini", [*SMALL, "data.pairs=false"]))
    with pytest.raises(UserError, match="rows have one"):
        DPO().sizes({"labels": torch.zeros(1, 4)})


def test_every_loss_is_named_in_the_docs():
    from ftcli.config import recipes_dir

    text = (recipes_dir().parent / "docs" / "preferences.md").read_text(encoding="utf-8")
    assert [name for name in LOSSES if f"`{name}`" not in text] == []
