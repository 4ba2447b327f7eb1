"""Batches: every row once an epoch, the same on every call, shared evenly between processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcli.core.errors import UserError
from ftcli.data import packing
from ftcli.data.cache import Writer
from ftcli.data.loader import Loader, count_steps
from ftcli.data.tokens import Document, TokenizedSplit

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=200).map(np.array)
WAYS = ("flat", "bins", "none")


def make_tokens(folder, lengths):
    writer = Writer(folder / "x.partial")
    for number, length in enumerate(lengths):
        learned = np.ones(length, dtype=np.uint8)
        learned[: max(1, length // 2)] = 0
        ids = 1000 * (number + 1) + np.arange(length)
        writer.append(Document(ids.astype(np.int32), learned), f"file:{number + 1}")
    writer.finish({"skipped": 0}, folder / "x")
    return TokenizedSplit(folder / "x")


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path, [5, 3, 9, 2, 7, 4, 8, 6, 1, 10, 3, 5, 2])


def batches(way, lengths, size, seed=0, epoch=0, shuffle=True, capacity=64):
    if way == "bins":
        return packing.pack_bins(
            np.arange(len(lengths)), lengths, size, seed, epoch, shuffle, capacity
        )
    return (packing.pack_flat if way == "flat" else packing.batch_by_length)(
        np.arange(len(lengths)), lengths, size, seed, epoch, shuffle
    )


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3), st.sampled_from(WAYS), st.booleans())
def test_every_row_comes_once_an_epoch(lengths, size, epoch, way, shuffle):
    all_batches = batches(way, lengths, size, epoch=epoch, shuffle=shuffle)
    assert sorted(row for batch in all_batches for row in batch) == list(range(len(lengths)))
    assert all_batches == batches(way, lengths, size, epoch=epoch, shuffle=shuffle)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 3))
def test_bins_are_as_many_in_every_epoch_and_never_too_full(lengths, size, epoch):
    assert len(batches("bins", lengths, size)) == len(batches("bins", lengths, size, epoch=epoch))
    for bin_rows in packing.pack_best_fit(np.arange(len(lengths)), lengths, 64):
        assert lengths[bin_rows].sum() <= 64


def test_bins_are_as_many_in_every_epoch_over_several_windows(monkeypatch):
    monkeypatch.setattr(packing, "WINDOW", 50)
    lengths = np.random.default_rng(0).integers(1, 64, 777)
    counts = {len(batches("bins", lengths, 2, epoch=epoch)) for epoch in range(6)}
    assert len(counts) == 1


def test_best_fit_fills_bins_nearly_whole():
    lengths = np.random.default_rng(0).integers(5, 200, 3000)
    bins = packing.pack_best_fit(np.arange(3000), lengths, 512)
    assert lengths.sum() / (len(bins) * 512) > 0.99


def test_epochs_and_seeds_differ_and_without_shuffling_rows_keep_their_order():
    lengths = np.arange(1, 60)
    orders = [batches("flat", lengths, 4, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4
    assert sum(batches("flat", lengths, 4, shuffle=False), []) == list(range(59))


def test_padded_batches_hold_rows_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 500, 4000)
    padded = sum(len(b) * lengths[b].max() for b in batches("none", lengths, 8))
    blind = sum(len(b) * lengths[b].max() for b in batches("flat", lengths, 8))
    assert lengths.sum() / padded > 0.9 > 0.6 > lengths.sum() / blind


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_batches_evenly(tokens, way, world):
    loaders = [Loader(tokens, 2, way, 16, rank=r, world=world) for r in range(world)]
    shares = [loader.list_batch_indices(1) for loader in loaders]
    assert len({len(share) for share in shares}) == 1
    assert {len(loader) for loader in loaders} == {len(shares[0])}
    alone = Loader(tokens, 2, way, 16).list_batch_indices(1)
    together = [batch for group in zip(*shares, strict=True) for batch in group]
    assert together == alone[: len(together)]
    assert len(alone) - len(together) < world


def test_more_processes_than_batches_are_refused(tokens):
    with pytest.raises(UserError, match="not enough for 9 processes"):
        Loader(tokens, 4, world=9)


def test_packed_batches_restart_positions_and_never_join_documents(tokens):
    batch = Loader(tokens, 3, shuffle=False).batch([2, 0, 1])
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 9 + 5 + 3)
    assert batch["position_ids"][0].tolist() == [*range(9), *range(5), *range(3)]
    assert batch["lengths"].tolist() == [9, 5, 3] and batch["lengths"].dtype == torch.int32
    assert batch["input_ids"][0, :9].tolist() == list(range(3000, 3009))
    starts = [0, 9, 14]
    assert batch["labels"][0, starts].tolist() == [-100] * 3
    learned = batch["labels"][0] != -100
    assert torch.equal(batch["labels"][0, learned], batch["input_ids"][0, learned])
    assert batch["num_supervised"] == int(learned.sum()) == 5 + 3 + 2
    assert batch["indices"] == [2, 0, 1]
    assert all(batch[k].dtype == torch.int64 for k in ("input_ids", "labels", "position_ids"))


def test_padded_batches_pad_on_the_right(tokens):
    batch = Loader(tokens, 3, "none", pad=7).batch([0, 3])
    assert batch["input_ids"].tolist()[1] == [4000, 4001, 7, 7, 7]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["labels"].tolist()[1] == [-100, 4001, -100, -100, -100]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]]
    assert batch["num_supervised"] == 3 + 1 and "lengths" not in batch


@pytest.mark.parametrize("way", WAYS)
def test_iterating_gives_the_first_epoch(tokens, way):
    loader = Loader(tokens, 2, way, 16)
    assert [batch["indices"] for batch in loader] == loader.list_batch_indices(0)
    assert len(loader) == len(loader.list_batch_indices(0)) == len(loader.list_batch_indices(5))


@pytest.mark.parametrize(
    ("batches", "epochs", "accumulation", "steps"),
    [(10, 3.0, 4, 9), (10, None, 4, 3), (8, 2.0, 4, 4), (10, 1.1, 1, 11), (10, 0.25, 2, 2)],
)
def test_a_step_does_not_reach_over_the_end_of_a_pass(batches, epochs, accumulation, steps):
    assert count_steps(batches, epochs, accumulation) == steps
