"""Objectives without a gradient: the share of wrong words, a metric of written text; MeZO on them."""

from __future__ import annotations

import pytest
import torch

from ftcli.config import compose, validate
from ftcli.errors import UserError
from ftcli.evaluation.decoding import answer
from ftcli.evaluation.metrics.f1 import f1
from ftcli.objectives.generated import Generated, documents
from ftcli.run.run import Run

BASE = (
    "method=lora", "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32",
    "data=mr", "data.limit=32", "data.validation=null", "data.test=null", "eval=none", "method.r=2",
    "optimizer=mezo", "trainer.eval_first=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


def make(tokens, *overrides):
    composed = compose("qlora_llama", [*BASE, f"data.cache_dir={tokens}", *overrides])
    validate(composed)
    run = Run(composed.config)
    run.objective.setup(run)
    run.model.eval()
    return run


def test_values_are_the_wrong_answers_of_the_label_words(tokens):
    wrong = make(tokens, "objective=accuracy")
    smooth = make(tokens, "objective=label_words")
    batch = wrong.loader().batch(list(range(12)))
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
    batch = run.loader().batch([0, 1, 2])
    losses = run.objective(run.model, batch)
    examples = list(run.data.examples("train"))[:3]
    prompts = [run.data.prompt_ids(example, run.tokenizer) for example in examples]
    texts = answer(run.model, run.tokenizer, prompts, max_new_tokens=6)
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
