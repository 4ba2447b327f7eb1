"""Several sources share an epoch by weight; no row is lost or preferred, and one source is as before."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.mixture import Mixture, interleave_rows
from ftcli.data.source_settings import TrainingSource

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
WEIGHTS = st.lists(st.floats(0.01, 100), min_size=4, max_size=4)


@pytest.fixture
def two_files(write_rows):
    """Two files of 30 and 6 rows, in different formats."""
    long = [{"prompt": f"ask {n}", "completion": f"say {n}"} for n in range(30)]
    short = [{"question": f"what {n}", "answer": f"that {n}"} for n in range(6)]
    return [
        {"path": str(write_rows(long, "long.jsonl"))},
        {
            "path": str(write_rows(short, "short.jsonl")),
            "columns": {"prompt": "question", "completion": "answer"},
        },
    ]


def weighted(sources, *weights):
    return [source | {"weight": weight} for source, weight in zip(sources, weights, strict=True)]


@settings(max_examples=60, deadline=None)
@given(SIZES, WEIGHTS, st.integers(1, 200))
def test_shares_are_those_of_the_weights_to_one_row_and_add_up(sizes, weights, total):
    weights = weights[: len(sizes)]
    drawn = Mixture(("a",) * len(sizes), tuple(weights), total).count_drawn(sizes)
    assert sum(drawn) == total
    exact = total * np.array(weights) / sum(weights)
    assert (np.abs(np.array(drawn) - exact) < 1).all()


@settings(max_examples=60, deadline=None)
@given(SIZES, WEIGHTS, st.integers(1, 90), st.integers(0, 3))
def test_over_epochs_each_row_of_a_source_comes_as_often_as_any_other(sizes, weights, total, seed):
    mixture = Mixture(("a",) * len(sizes), tuple(weights[: len(sizes)]), total)
    epochs = [mixture.draw_rows(sizes, seed, epoch) for epoch in range(4)]
    assert all(len(rows) == total for rows in epochs)
    counts = np.bincount(np.concatenate(epochs), minlength=sum(sizes))
    for part in np.split(counts, np.cumsum(sizes)[:-1]):
        assert part.max() - part.min() <= 1
    again = mixture.draw_rows(sizes, seed, 2)  # a pure function: an earlier epoch is not needed
    assert (again == epochs[2]).all()


def test_without_weights_every_row_comes_once_an_epoch():
    assert sorted(Mixture(("a", "b")).draw_rows([5, 3], 0, 7)) == list(range(8))


def test_one_source_is_read_in_the_order_it_had_before_there_were_several():
    """The permutation of 13 rows of seed 3 and epoch 2, as `order_rows` drew it without sources."""
    rows = Mixture().draw_rows([13], 3, 2)
    order = np.random.default_rng([3, 2]).permutation(13)
    assert (rows[np.random.default_rng([3, 2]).permutation(len(rows))] == order).all()


def test_a_part_of_a_split_holds_rows_of_all_sources():
    rows = interleave_rows([40, 10])
    assert sorted(rows) == list(range(50)) and (np.diff(rows[rows < 40]) == 1).all()
    assert [int((rows[: 5 * n] >= 40).sum()) for n in range(1, 11)] == list(range(1, 11))


def test_batches_of_two_files_hold_their_shares_and_say_the_source(two_files, tokenizer):
    data = Data(sources=weighted(two_files, 1, 2), rows_per_epoch=36, packing="flat")
    tokens = data.prepare("train", tokenizer)
    assert data.titles == ("long", "short") and tokens.sizes == [30, 6]
    loader = data.loader("train", tokenizer, 5, seed=1)
    rows = [row for batch in loader.list_batch_indices(0) for row in batch]
    assert np.bincount(tokens.find_sources(rows)).tolist() == [12, 24]
    assert sorted(row for row in rows if row >= 30) == sorted([*range(30, 36)] * 4)
    batch = loader.batch([2, 31, 29])
    assert batch["sources"].tolist() == [0, 1, 0]
    text = tokenizer.decode(batch["input_ids"][0][: int(batch["lengths"][:2].sum())])
    assert text == "<|bos|>ask 2\nsay 2<|eos|><|bos|>what 1\nthat 1<|eos|>"
    assert tokens.origin(31).endswith("short.jsonl:2") and tokens.origin(0).endswith("long.jsonl:1")


def test_joined_tokens_are_those_of_each_source(two_files, tokenizer):
    joined = Data(sources=two_files).prepare("train", tokenizer)
    alone = [Data(**source).prepare("train", tokenizer) for source in two_files]
    assert joined.folders == [part.folders[0] for part in alone]  # one entry of the cache for both
    rows = [part.row(i) for part in alone for i in range(len(part))]
    for index, row in enumerate(rows):
        assert (joined.row(index)["input_ids"] == row["input_ids"]).all()
        assert (joined.row(index)["labels"] == row["labels"]).all()
    assert joined.meta["used"] == 36 and joined.meta["tokens"] == sum(
        map(len, (r["input_ids"] for r in rows))
    )
    assert joined.fingerprint not in {part.fingerprint for part in alone}


def test_data_json_and_shares_count_what_an_epoch_takes(two_files, tokenizer):
    data = Data(sources=weighted(two_files, 1, 1), rows_per_epoch=20, validation=0.2)
    described = data.describe(tokenizer)
    assert described["path"] == "long + short"
    taken = [(part["title"], part["drawn"], part["rows"]) for part in described["sources"]]
    assert [t[:2] for t in taken] == [("long", 10), ("short", 10)]
    assert taken[1][2] < 6 and described["sources"][1]["passes"] > 1.6
    held_out = described["splits"]["validation"]
    assert held_out["read"] == 36 and held_out["used"] + described["splits"]["train"]["used"] == 36
    lines = [share.describe() for share in data.prepare("train", tokenizer).list_shares()]
    assert "the others in later epochs" in lines[0] and "each read" in lines[1]
    assert "50.0%" in data.plan_shares()[0]


def test_a_source_without_a_usable_row_is_refused_by_name(two_files, write_rows, tokenizer):
    empty = {"path": str(write_rows([{"prompt": "a", "completion": ""}], "empty.jsonl"))}
    with pytest.raises(UserError, match="empty.jsonl is empty"):
        Data(sources=[two_files[0], empty], on_error="skip").prepare("train", tokenizer)


def test_warnings_name_the_source(two_files, write_rows, tokenizer, caplog):
    broken = write_rows([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "broken.jsonl")
    with caplog.at_level(logging.WARNING):
        Data(sources=[*two_files, {"path": str(broken)}], on_error="skip").prepare(
            "train", tokenizer
        )
    assert "train of broken: 1 row skipped" in caplog.text


@pytest.mark.parametrize(
    ("change", "message", "where"),
    [
        ({"path": "x.jsonl"}, "both data.path and data.sources", "data.path"),
        ({"sources": []}, "the list is empty", "data.sources"),
        ({"sources": None}, "no source is given", "data.path"),
        ({"sources": [{"path": "a", "weight": 1}, {"path": "b"}]}, "no weight", "data.sources.1.weight"),
        ({"sources": [{"path": "a", "weight": 0}]}, "0 is no weight", "data.sources.0.weight"),
        ({"sources": [{"path": "x/a"}, {"path": "y/a"}]}, "'a' names 2", "data.sources.1.title"),
        ({"sources": [{"weight": 1}]}, "no path", "data.sources.0"),
        ({"sources": [{"path": "a", "wieght": 1}]}, "no key 'wieght'", "data.sources.0"),
        ({"sources": [{"path": "a"}], "format": "chat"}, "its own", "data.format"),
        ({"sources": [{"path": "a"}], "rows_per_epoch": 0}, "too small", "data.rows_per_epoch"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_a_row_is_read(change, message, where):
    with pytest.raises(UserError, match=message) as caught:
        Data(**{"sources": [{"path": "a"}], **change})
    assert caught.value.where == where


def test_a_file_that_is_missing_is_named_by_its_source(two_files, tokenizer):
    with pytest.raises(UserError, match="no such file") as caught:
        Data(sources=[two_files[0], {"path": "gone.jsonl"}]).prepare("train", tokenizer)
    assert caught.value.where == "data.sources.1.path"


def test_columns_that_do_not_fit_are_mapped_in_their_source(two_files, tokenizer):
    wrong = {"path": two_files[1]["path"], "format": "prompt"}
    with pytest.raises(UserError) as caught:
        Data(sources=[two_files[0], wrong]).prepare("train", tokenizer)
    assert "data.sources.1.columns.prompt=question" in caught.value.fix


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("asset:e2e", "e2e"), ("rows/code.jsonl.gz", "code"), ("code/train.jsonl", "code"),
        ("owner/set", "set"), ("/data/chat/*.parquet", "chat"), ("a b.jsonl", "a-b"),
    ],
)  # fmt: skip
def test_a_source_is_named_after_what_tells_it_from_others(path, name):
    assert TrainingSource(path).display_name == name


def test_pairs_stay_together_when_sources_are_mixed(write_rows, tokenizer):
    pair = [{"prompt": f"p {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(9)]
    files = [{"path": str(write_rows(pair[:6], "a.jsonl")), "weight": 1},
             {"path": str(write_rows(pair[6:], "b.jsonl")), "weight": 1}]  # fmt: skip
    loader = Data(sources=files, pairs=True, rows_per_epoch=12).loader("train", tokenizer, 4)
    rows = [row for batch in loader.list_batch_indices(0) for row in batch]
    assert len(rows) == 24 and all(
        a % 2 == 0 and b == a + 1 for a, b in zip(rows[::2], rows[1::2], strict=True)
    )
    assert sum(row >= 12 for row in rows) == 12
    assert torch.equal(loader.batch([0, 1, 12, 13])["sources"], torch.tensor([0, 0, 1, 1]))


def test_a_split_by_name_is_that_of_every_source(tmp_path, tokenizer):
    for name in ("a", "b"):
        for split in ("train", "test"):
            path = tmp_path / name / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"prompt": f"{name} {split}", "completion": "x"}) + "\n")
    data = Data(sources=[{"path": str(tmp_path / name)} for name in ("a", "b")], test="test")
    assert [e["prompt"] for e in data.examples("test")] == ["a test", "b test"]
    assert data.prepare("test", tokenizer).sizes == [1, 1]
