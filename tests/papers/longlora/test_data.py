"""Joined rows of one length, texts that come again, and losses by context length."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.models.causal_lm import CausalLMSource
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.papers.longlora.data import JoinedText, order_documents
from ftcli.papers.longlora.evaluation import LossByLength, slide_windows
from tests.methods.tiny import write_llama

TEXTS = [f"row {i} says {'word ' * (i % 5)}end" for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return CausalLMSource("asset:llama_mini").load_tokenizer()


@pytest.fixture
def data(tmp_path):
    """Builds a data option on 40 short texts."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def build(**options):
        keys = {"format": "text", "max_length": 32, "cache_dir": str(tmp_path / "tokens")}
        return JoinedText(str(path), **{**keys, **options})

    return build


def test_rows_are_the_texts_end_to_end(data, tokenizer):
    joined = data().prepare("train", tokenizer)
    assert set(joined.lengths.tolist()) == {32}
    stream = [
        i for text in TEXTS for i in [1, *tokenizer(text, add_special_tokens=False)["input_ids"], 2]
    ]
    assert joined.ids.tolist() == stream[: len(joined) * 32]
    assert len(stream) - len(joined.ids) < 32
    learned = np.asarray(joined.loss_mask).astype(bool)
    expected = joined.ids != 1
    expected[::32] = False  # nothing stands before the first token of a row
    assert (learned == expected).all() and learned.sum() == joined.meta["supervised"]


def test_a_text_longer_than_a_row_goes_on_in_the_next(tmp_path, tokenizer):
    path = tmp_path / "book.txt"
    path.write_text(" ".join(TEXTS))
    joined = JoinedText(str(path), format="text", max_length=32, cache_dir=str(tmp_path / "tokens"))
    ids = [1, *tokenizer(" ".join(TEXTS), add_special_tokens=False)["input_ids"], 2]
    rows = joined.prepare("train", tokenizer)
    assert len(rows) > 5 and rows.ids.tolist() == ids[: len(rows) * 32]


def test_the_origin_of_a_row_is_that_of_its_first_text(data, tokenizer):
    joined = data().prepare("train", tokenizer)
    first = tokenizer.decode(joined.row(3)["input_ids"])
    line = int(joined.origin(3).rpartition(":")[2])
    assert line == joined.source[96] + 1 and f"row {line} says" in first


def test_batches_have_rows_of_one_length(data, tokenizer):
    batch = next(iter(data().loader("train", tokenizer, batch_size=2)))
    assert batch["input_ids"].shape == (2, 32)  # padded until the batch layout is measured
    source = data(packing="flat")
    assert next(iter(source.loader("train", tokenizer, batch_size=2)))["lengths"].tolist() == [
        32,
        32,
    ]
    assert source.describe(tokenizer)["splits"]["train"]["max_length"] == 32


def test_texts_come_again_in_the_order_that_is_said():
    order, again = order_documents(5, 2)
    assert order.tolist() == [0, 1, 2, 0, 3, 1, 4, 2]
    assert again.tolist() == [False, False, False, True, False, True, False, True]
    assert order_documents(3, None)[0].tolist() == [0, 1, 2]


def test_tokens_of_texts_that_come_again_are_marked(data, tokenizer):
    joined = data(returns=1).prepare("train", tokenizer)
    seen: set[int] = set()
    for document in dict.fromkeys(zip(joined.source.tolist(), joined.again.tolist(), strict=False)):
        assert document[1] == (document[0] in seen)
        seen.add(document[0])
    assert 0.4 < joined.again.mean() < 0.6


def test_what_cannot_be_joined_is_refused(data, tokenizer):
    with pytest.raises(UserError, match="not of format prompt"):
        data(format="prompt")
    with pytest.raises(UserError, match="again after 0 others"):
        data(returns=0)
    with pytest.raises(UserError, match="less than one row"):
        data(max_length=4096).prepare("train", tokenizer)


@pytest.mark.parametrize(
    ("tokens", "length", "stride"), [(32, 8, 4), (30, 8, 3), (6, 8, 4), (8, 8, 8)]
)
def test_windows_count_every_token_once(tokens, length, stride):
    counted = [i for window, skip in slide_windows(tokens, length, stride)
               for i in range(window.start + skip, window.stop)]  # fmt: skip
    assert counted == list(range(tokens))
    context = [skip for _, skip in slide_windows(tokens, length, stride)][1:]
    assert all(skip >= length - stride for skip in context)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return CausalLMSource(str(folder)).load("cpu")


class Few:
    """A tokenizer's ids brought into the tiny model's 128."""

    def __init__(self, tokens):
        self.tokens, self.again, self.offsets = tokens, tokens.again, tokens.offsets

    def __len__(self):
        return len(self.tokens)

    def row(self, index):
        row = self.tokens.row(index)
        labels = np.where(row["labels"] == -100, -100, row["labels"] % 128)
        return {"input_ids": row["input_ids"] % 128, "labels": labels}


def test_loss_by_length_is_that_of_each_token_with_so_much_context(data, tokenizer, model):
    tokens = Few(data(returns=1).prepare("train", tokenizer))
    run = SimpleNamespace(
        model=model, tokenizer=tokenizer, objective=NextTokenPrediction(),
        data=SimpleNamespace(prepare=lambda *_: tokens), autocast=torch.no_grad,
    )  # fmt: skip
    scores = LossByLength([8, 32], stride=1, split="train", limit=2)(run)
    assert scores.keys() == {"at_8.loss", "at_32.loss", "again_at_8.loss", "again_at_32.loss"}
    for length in (8, 32):
        losses = [naive(model, tokens.row(i), length) for i in range(2)]
        flat = [x for row in losses for x in row.values()]
        assert math.isclose(scores[f"at_{length}.loss"], sum(flat) / len(flat), rel_tol=1e-5)
        again = [
            x for i, row in enumerate(losses) for t, x in row.items() if tokens.again[32 * i + t]
        ]
        assert math.isclose(
            scores[f"again_at_{length}.loss"], sum(again) / len(again), rel_tol=1e-5
        )
    assert not math.isclose(scores["at_8.loss"], scores["at_32.loss"], rel_tol=1e-4)


@torch.no_grad()
def naive(model, row, length):
    """Token -> loss, each from a forward pass over it and the tokens in reach alone."""
    ids, labels, losses = torch.as_tensor(row["input_ids"]).long(), row["labels"], {}
    for t in range(1, len(ids)):
        if labels[t] != -100:
            context = ids[max(0, t - length + 1) : t]
            logits = model(input_ids=context[None]).logits[0, -1]
            losses[t] = -logits.log_softmax(-1)[ids[t]].item()
    return losses
