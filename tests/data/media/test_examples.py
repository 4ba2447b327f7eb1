"""Splits, folds and augmentation are pure functions; items of one group stay in one split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ftcli.core.errors import Problems, UserError
from ftcli.data.media.images import Images
from ftcli.models.classifier import ClassifierSource


@pytest.fixture(scope="module")
def processor():
    return ClassifierSource("asset:vit_mini").load_tokenizer()


def clothes(**options) -> Images:
    return Images("asset:fashion", **options)


def drawings(**options) -> Images:
    return Images("asset:omniglot", label="char", group="drawer", **options)


def digests(data, split) -> set[str]:
    return {item.digest for item in data.prepare(split, None).items}


def test_a_share_is_held_out_of_each_class_and_is_always_the_same():
    data = clothes(validation=0.25)
    train, held = digests(data, "train"), digests(data, "validation")
    assert not train & held and len(train) + len(held) == 720
    assert set(data.prepare("validation", None).counts.values()) == {18}
    assert held == digests(clothes(validation=0.25), "validation")
    assert held != digests(clothes(validation=0.25, seed=1), "validation")


def test_folds_cover_everything_once():
    folds = [digests(clothes(folds=5, fold=n), "validation") for n in range(5)]
    assert sum(map(len, folds)) == len(set.union(*folds)) == 720
    assert {len(fold) for fold in folds} == {144}
    for number, fold in enumerate(folds):
        data = clothes(folds=5, fold=number)
        assert digests(data, "train") == set.union(*folds) - fold
        assert set(data.prepare("validation", None).counts.values()) <= {14, 15}
    assert digests(clothes(folds=5, fold=7), "validation") == folds[2]


def test_what_one_person_drew_stays_on_one_side():
    data = drawings(classes=["Latin/*"], folds=7, fold=1)
    groups = [{i.group for i in data.prepare(s, None).items} for s in ("train", "validation")]
    assert not groups[0] & groups[1] and len(groups[1]) == 2
    assert set(data.prepare("validation", None).counts.values()) == {2}


def test_classes_are_chosen_in_the_order_of_their_patterns():
    data = drawings(classes=["Latin/*", "Greek/*01"])
    assert data.names[0] == "Latin/character01" and data.names[-1] == "Greek/character01"
    assert len(data.names) == 27
    assert clothes().names == sorted(clothes().names) and len(clothes().names) == 10


def test_all_of_a_source_is_cut_into_folds():
    data = clothes(split=None, folds=3)
    assert len(data.prepare("train", None)) == 600 and len(data.prepare("validation", None)) == 300


def test_shots_are_as_many_of_every_class():
    few = clothes(shots=4).prepare("train", None)
    assert set(few.counts.values()) == {4}
    more = clothes(shots=8).prepare("train", None)
    assert {i.digest for i in few.items} < {i.digest for i in more.items}


def test_augmentation_is_a_function_of_seed_epoch_and_row(processor):
    data = clothes(crop=3, flip=True)
    loader = data.loader("train", processor, 8, seed=3)
    first, later = loader.list_batch_indices(0)[1], loader.list_batch_indices(1)[1]
    assert sorted(sum(loader.list_batch_indices(1), [])) == list(range(720)) and first != later
    again = data.loader("train", processor, 8, seed=3)
    assert again.list_batch_indices(0)[1] == first
    pixels = [ld.batch(first)["inputs"]["pixel_values"] for ld in (loader, again)]
    assert torch.equal(*pixels)
    rows = loader.examples
    views = [rows.view(5, 3, epoch) for epoch in (0, 1, 2, 3)]
    assert not all(np.array_equal(views[0], view) for view in views[1:])
    assert np.array_equal(rows.view(5, 3, 2), views[2])


def test_evaluation_sees_images_as_they_are(processor):
    data = clothes(crop=3, flip=True, test="test")
    loader = data.loader("test", processor, 4, shuffle=False)
    batch = loader.batch(loader.list_batch_indices(0)[0])
    assert batch["indices"] == [0, 1, 2, 3] and batch["num_supervised"] == 4
    item = loader.examples.items[0]
    plain = processor(images=[data.decode(item, processor)], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["inputs"]["pixel_values"][:1], plain)
    assert batch["labels"].tolist() == [
        data.names.index(loader.examples.items[r].label) for r in range(4)
    ]


def test_several_processes_share_the_batches_of_an_epoch(processor):
    loaders = [clothes().loader("train", processor, 32, seed=1, rank=r, world=2) for r in (0, 1)]
    parts = [sum(loader.list_batch_indices(4), []) for loader in loaders]
    assert not set(parts[0]) & set(parts[1]) and len(loaders[0]) == len(loaders[1])
    assert all(rows.epoch == 4 for rows in loaders[1].list_batch_indices(4))


def test_the_fingerprint_is_that_of_content_and_classes():
    prints = [
        clothes(**o).prepare("train", None).fingerprint
        for o in ({}, {"crop": 2}, {"limit": 700}, {"classes": ["Shirt", "Bag"]})
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.5}, "cannot be held out"),
        ({"folds": 3, "validation": 0.1}, "one of the folds"),
        ({"folds": 1}, "too small"),
        ({"shots": 0}, "too small"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises((UserError, Problems), match=message):
        clothes(**options)


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ({}, "validation", "no split 'validation'"),
        ({"test": "later"}, "test", "no split 'later'"),
        ({"classes": ["Hat"]}, "train", "is empty"),
    ],
)
def test_a_split_that_is_not_there_is_refused(options, split, message):
    with pytest.raises(UserError, match=message):
        clothes(**options).prepare(split, None)


def test_a_picture_of_the_examples_is_drawn(processor, tmp_path):
    from PIL import Image

    seen = clothes(crop=2).preview("train", processor, 5, tmp_path / "p" / "x.png")
    assert [preview.input for preview in seen] == ["pixel_values [3, 32, 32]"] * 5
    with Image.open(tmp_path / "p" / "x.png") as image:
        assert image.size[0] > 800 and len(image.convert("L").getcolors(1 << 16)) > 50


def test_inputs_that_never_change_are_computed_once(processor, monkeypatch):
    rows = clothes(limit=20).prepare("train", processor)
    first = rows.batch([3, 1, 3])["inputs"]["pixel_values"]
    alone = processor(images=[rows.view(r, 0, None) for r in (3, 1, 3)], return_tensors="pt")
    assert torch.equal(first, alone["pixel_values"])
    monkeypatch.setattr(rows.data, "decode", lambda *_: pytest.fail("read again"))
    assert torch.equal(rows.batch([1, 3], 5, 2)["inputs"]["pixel_values"], first[1:])


def test_only_so_much_is_kept(processor):
    rows = clothes(limit=20).prepare("train", processor)
    rows._free_bytes = 1
    whole = rows.batch(range(5))["inputs"]["pixel_values"]
    assert len(rows._cached) == 1 and torch.equal(
        rows.batch([4])["inputs"]["pixel_values"], whole[4:]
    )
