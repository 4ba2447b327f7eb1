"""Objectives without a gradient: the share of wrong words, a metric of written text; MeZO on them."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.data.tokens import IGNORED
from ftcli.evaluation.metrics.f1 import f1
from ftcli.models.decoding import generate_answers
from ftcli.objectives.accuracy import Accuracy
from ftcli.objectives.generated import Generated, documents
from ftcli.optimizers.mezo import MeZO
from ftcli.run.build import build_run

BASE = (
    "method=lora", "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32",
    "data=mr", "data.limit=32", "data.validation=null", "data.test=null", "eval=none", "method.r=2",
    "optimizer=mezo", "trainer.eval_first=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


def make(tokens, *overrides):
    composed = compose("qlora_mini", [*BASE, f"data.cache_dir={tokens}", *overrides])
    validate_and_convert(composed)
    run = build_run(composed.config)
    run.load_model()
    run.objective.setup(run)
    run.model.eval()
    return run


def test_values_are_the_wrong_answers_of_the_label_words(tokens):
    wrong = make(tokens, "objective=accuracy")
    smooth = make(tokens, "objective=label_words")
    batch = wrong.build_loader().batch(list(range(12)))
    with torch.no_grad():
        errors = wrong.objective(wrong.model, batch)
        losses = smooth.objective(smooth.model, batch)
    likelier = losses.values < torch.tensor(2.0).log()
    assert errors.values.tolist() == (~likelier).float().tolist()
    assert errors.metrics["accuracy"].item() == pytest.approx(1 - errors.values.mean().item())


@pytest.mark.parametrize("name", ["accuracy", "generated"])
def test_an_optimizer_of_gradients_is_refused(tokens, name):
    with pytest.raises(UserError, match="has no gradient"):
        make(tokens, f"objective={name}", "optimizer=adamw")


@pytest.mark.parametrize("packing", ["flat", "none"])
def test_generated_scores_the_answers_to_the_prompts(tokens, packing):
    run = make(
        tokens, "objective=generated", "objective.max_new_tokens=6", "data=e2e",
        "data.validation=null", "data.limit=4", "data.test=null", f"data.packing={packing}",
    )  # fmt: skip
    batch = run.build_loader().batch([0, 1, 2])
    losses = run.objective(run.model, batch)
    examples = list(run.data.examples("train"))[:3]
    prompts = [run.data.prompt_ids(example, run.tokenizer) for example in examples]
    texts = generate_answers(run.model, run.tokenizer, prompts, max_new_tokens=6)
    for value, text, example in zip(losses.values, texts, examples, strict=True):
        expected = f1([text], [[example["completion"]]], [{}])["f1"]
        assert value.item() == pytest.approx(1 - expected / 100, abs=1e-6)
    assert run.objective.sizes(batch) == (3, 3)
    assert losses.metrics["f1"].item() == pytest.approx(
        100 * (1 - losses.values.mean().item()), abs=1e-3
    )
    assert len(documents(batch)) == 3


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match="f2: no such metric"):
        Generated(metric="f2")


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The cat sat.", "a cat sat", 100),
        ("cat", "cat sat", 100 * 2 / 3),
        ("dog", "cat", 0),
        ("", "cat", 0),
        ("cat cat", "cat", 100 * 2 / 3),
    ],
)
def test_f1_of_words(text, reference, expected):
    assert f1([text], [[reference, "something else"]], [{}])["f1"] == pytest.approx(expected)
    assert f1([text], [[]], [{}]) == {}


def sequences(rows, seed):
    """Rows of 9 tokens below 16 and an answer: 20 where most of them are below 8, else 21."""
    ids = torch.randint(16, (rows, 9), generator=torch.Generator().manual_seed(seed))
    answers = 20 + ((ids < 8).sum(1, keepdim=True) < 5).long()
    labels = torch.cat([torch.full_like(ids, IGNORED), answers], 1)
    ids = torch.cat([ids, answers], 1)
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "position_ids": None}


@pytest.mark.parametrize("seed", [0, 1])
def test_mezo_on_the_accuracy_raises_it_on_rows_it_has_not_seen(seed):
    """From chance, without a gradient and without a smooth loss; 0.05 is three standard errors."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=24, num_hidden_layers=1, **shape)).eval()
    objective = Accuracy()
    objective.candidates = torch.tensor([20, 21])

    @torch.no_grad()
    def wrong(batch):
        return objective(model, batch).values.mean()

    optimizer = MeZO(model.named_parameters(), lr=2e-3, eps=1e-2, seed=seed)
    unseen = sequences(1000, seed=99)
    before = wrong(unseen)
    for step in range(80):
        batch = sequences(128, step)
        optimizer.step(lambda batch=batch: wrong(batch))
    assert before - wrong(unseen) > 0.05
