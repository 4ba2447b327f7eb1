"""Label words: the logits that count, the positions that count, and words that cannot be used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from ftcli.config import compose, validate_and_convert
from ftcli.core.errors import UserError
from ftcli.objectives.candidates import answer_positions, token_ids
from ftcli.objectives.label_words import LabelWords
from ftcli.run.build import build_run

JOB = (
    "method=lora", "model.quantization=none", "model.dtype=float32", "trainer.precision=fp32",
    "data=mr", "data.limit=24", "data.validation=null", "objective=label_words", "eval=none",
    "method.r=2",
)  # fmt: skip
GREAT, TERRIBLE = " great", " terrible"


@pytest.fixture(scope="module", params=["flat", "none"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    composed = compose(
        "qlora_mini", [*JOB, f"data.packing={request.param}", f"data.cache_dir={folder}"]
    )
    validate_and_convert(composed)
    small = build_run(composed.config)
    small.load_model()
    small.objective.setup(small)
    small.model.eval()
    return small


@pytest.fixture
def batch(run):
    return run.build_loader().batch(list(range(6)))


def word_ids(run):
    return [run.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in (GREAT, TERRIBLE)]


def test_words_are_the_completions_of_the_rows(run):
    assert run.objective.candidates.tolist() == word_ids(run)
    ids = token_ids([TERRIBLE, GREAT], run)
    assert ids.tolist() == word_ids(run)[::-1]


def test_losses_are_cross_entropy_over_the_words_where_the_answer_begins(run, batch):
    losses = run.objective(run.model, batch)
    great, terrible = word_ids(run)
    examples = list(run.data.examples("train"))[:6]
    for value, example in zip(losses.values, examples, strict=True):
        ids = torch.tensor([run.data.prompt_ids(example, run.tokenizer)])
        with torch.no_grad():
            logits = run.model(input_ids=ids).logits[0, -1, [great, terrible]].float()
        right = torch.tensor(0 if example["completion"] == GREAT else 1)
        assert value.item() == pytest.approx(cross_entropy(logits, right).item(), abs=1e-4)
    assert losses.sequence_index.tolist() == list(range(6))
    assert run.objective.sizes(batch) == (6, 6)
    assert losses.hidden.shape == (6, 256) and losses.head(losses.hidden).shape == (6, 4096)


def test_a_mean_over_micro_batches_is_that_of_the_large_batch(run):
    loader, objective = run.build_loader(), run.objective
    whole = loader.batch(list(range(6)))
    parts = [loader.batch([0, 1, 2, 3]), loader.batch([4, 5])]

    def mean(batches):
        with torch.no_grad():
            total = sum(objective.numerator(objective(run.model, b)) for b in batches)
        return (total / objective.denominator(batches)).item()

    assert mean([whole]) == pytest.approx(mean(parts), abs=1e-5)


def test_the_metric_is_the_share_of_right_words(run, batch):
    losses = run.objective(run.model, batch)
    right = losses.values < torch.tensor(2.0).log()  # the right one of two is the likelier
    assert losses.metrics["accuracy"].item() == pytest.approx(right.float().mean().item())


def test_gradients_reach_what_is_trained(run, batch):
    run.model.zero_grad()
    run.objective(run.model, batch).values.mean().backward()
    norms = [p.grad.norm().item() for n, p in run.model.named_parameters() if "lora_B" in n]
    assert norms and min(norms) > 0


def test_answers_stand_where_documents_begin_to_be_learned(run, batch):
    where, tokens = answer_positions(batch)
    assert len(where) == 6 and set(tokens.tolist()) <= set(word_ids(run))
    following = batch["input_ids"].flatten()[where + 1]
    assert torch.equal(following, tokens)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([GREAT], "at least two label words"),
        ([GREAT, " greatness"], "begin with the same token"),
    ],
)
def test_words_that_decide_nothing_are_refused(run, words, message):
    with pytest.raises(UserError, match=message):
        token_ids(words, run)


def test_rows_with_another_answer_are_refused(run, batch):
    objective = LabelWords(words=[" good", " bad"])
    objective.setup(run)
    with pytest.raises(UserError, match="none of the label words"):
        objective(run.model, batch)


def test_completions_that_are_no_labels_are_refused(run):
    rows = [{"completion": f"text {i}"} for i in range(200)]
    data = SimpleNamespace(examples=lambda split: iter(rows))
    with pytest.raises(UserError, match="are not labels: 101 different"):
        token_ids(None, SimpleNamespace(data=data, tokenizer=run.tokenizer))


def test_it_must_be_set_up(run, batch):
    with pytest.raises(UserError, match="not been set up"):
        LabelWords()(run.model, batch)
