"""Preference rows as pairs of documents: side by side everywhere, the same prompt, answers learned only."""

from __future__ import annotations

import numpy as np
import pytest

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.loader import Loader

WAYS = ("flat", "bins", "none")


def rows(count):
    return [
        {"prompt": f"ask {i}", "chosen": "yes " * (1 + i % 7) + str(i), "rejected": f"no {i}"}
        for i in range(count)
    ]


@pytest.fixture
def data(write_rows):
    return Data(str(write_rows(rows(31))), format="preference", pairs=True, max_length=32)


def text(tokenizer, row, learned=True):
    ids = row["input_ids"]
    return tokenizer.decode(
        ids[row["labels"] != -100] if learned else ids, skip_special_tokens=True
    )


def test_each_row_gives_chosen_then_rejected_with_the_same_prompt(data, tokenizer):
    tokens = data.prepare("train", tokenizer)
    assert len(tokens) == 62
    for i, row in enumerate(rows(31)):
        chosen, rejected = tokens.row(2 * i), tokens.row(2 * i + 1)
        assert (
            text(tokenizer, chosen) == row["chosen"]
            and text(tokenizer, rejected) == row["rejected"]
        )
        prompts = [row["input_ids"][row["labels"] == -100].tolist() for row in (chosen, rejected)]
        assert prompts[0] == prompts[1]
        assert chosen["labels"][-1] == rejected["labels"][-1] == tokenizer.eos_token_id
        assert tokens.origin(2 * i) == tokens.origin(2 * i + 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [1, 2])
def test_a_pair_is_never_split_and_comes_once_an_epoch(data, tokenizer, way, world):
    seen = []
    for rank in range(world):
        loader = Loader(
            data.prepare("train", tokenizer), 4, way, 32, rank=rank, world=world, group=2
        )
        for epoch in (0, 1):
            for batch in loader.list_batch_indices(epoch):
                chosen, rejected = batch[::2], batch[1::2]
                assert [row + 1 for row in chosen] == rejected and all(r % 2 == 0 for r in chosen)
                seen += chosen if epoch else []
                assert way == "bins" or len(chosen) <= 4
    assert len(set(seen)) == len(seen) and (world == 2 or sorted(seen) == list(range(0, 62, 2)))


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_says_how_many_pairs_it_holds(write_rows, tokenizer, way):
    data = Data(str(write_rows(rows(9))), format="preference", pairs=True, packing=way)
    loader = data.loader("train", tokenizer, 4)
    batch = loader.batch(loader.list_batch_indices(0)[0])
    documents = len(batch["lengths"]) if "lengths" in batch else len(batch["input_ids"])
    assert documents == 2 * batch["pairs"] == len(batch["indices"])
    single = Data(data.path, format="preference", packing=way).loader("train", tokenizer, 4)
    assert "pairs" not in single.batch([0, 1])


def test_without_pairs_the_chosen_answer_is_learned(write_rows, tokenizer):
    tokens = Data(str(write_rows(rows(5))), format="preference").prepare("train", tokenizer)
    assert [text(tokenizer, tokens.row(i)) for i in range(5)] == [r["chosen"] for r in rows(5)]


def test_in_a_conversation_only_the_last_answer_is_compared(write_rows, tokenizer):
    before = [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
    ]  # fmt: skip
    row = {
        "chosen": [*before, {"role": "assistant", "content": "good"}],
        "rejected": [*before, {"role": "assistant", "content": "bad"}],
    }
    path = str(write_rows([row]))
    tokens = Data(path, format="preference", pairs=True).prepare("train", tokenizer)
    assert [text(tokenizer, tokens.row(i)).strip() for i in range(2)] == ["good", "bad"]
    assert "first" in text(tokenizer, tokens.row(0), learned=False)
    assert "first" in text(
        tokenizer, Data(path, format="preference").prepare("train", tokenizer).row(0)
    )


def test_who_loses_the_other_goes_too(write_rows, tokenizer, caplog):
    long = {"prompt": "ask", "chosen": "word " * 60, "rejected": "no"}
    path = str(write_rows([*rows(3), long]))
    data = Data(path, format="preference", pairs=True, max_length=40, overlong="drop")
    tokens = data.prepare("train", tokenizer)
    assert len(tokens) == 6 and tokens.meta["dropped"] == 1 and tokens.meta["partners"] == 1
    assert "the other one of a pair" in caplog.text
    cut = Data(path, format="preference", pairs=True, max_length=40).prepare("train", tokenizer)
    assert len(cut) == 8 and cut.lengths.max() == 40


def test_a_share_keeps_pairs_whole_and_parts_prompts(write_rows, tokenizer):
    data = Data(str(write_rows(rows(60))), format="preference", pairs=True, validation=0.3)
    sizes = [len(data.prepare(split, tokenizer)) for split in ("train", "validation")]
    assert sum(sizes) == 120 and not sizes[0] % 2 and not sizes[1] % 2 and sizes[1] >= 2


def test_fingerprints_of_pairs_and_of_chosen_answers_differ(write_rows, tokenizer):
    path = str(write_rows(rows(5)))
    first, two = (
        Data(path, format="preference", pairs=p).prepare("train", tokenizer) for p in (True, False)
    )
    assert first.fingerprint != two.fingerprint and np.array_equal(first.lengths[::2], two.lengths)


def test_what_cannot_be_paired_is_refused(write_rows, tokenizer):
    same = write_rows([{"prompt": "ask", "chosen": "yes", "rejected": "yes"}])
    with pytest.raises(UserError, match="do not differ"):
        Data(str(same), format="preference", pairs=True).prepare("train", tokenizer)
    plain = write_rows([{"prompt": "ask", "completion": "yes"}], "plain.jsonl")
    with pytest.raises(UserError, match="no rejected answer"):
        Data(str(plain), pairs=True).prepare("train", tokenizer)
    for options in ({"format": "prompt"}, {"train_on": "all"}):
        with pytest.raises(UserError):
            Data(str(same), pairs=True, **options)
