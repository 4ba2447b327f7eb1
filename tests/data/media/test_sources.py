"""The four kinds of sources of labelled examples give the same rows; errors name what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from ftcli.core.errors import UserError
from ftcli.data.media.images import Images
from ftcli.data.media.items import parse_name
from ftcli.data.media.sources import Source, list_shipped

PNG = (".png",)
RANDOM = np.random.default_rng(0)
IMAGES = {f"{kind}/{n}.png": RANDOM.integers(0, 256, (6, 6, 3), np.uint8)
          for kind in ("cat", "dog") for n in range(3)}  # fmt: skip


def png(image) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, image in IMAGES.items():
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))
    return tmp_path / "pets"


def places(folder, kind):
    """Return the same images as another kind of source."""
    target = folder.parent / f"pets.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as archive:
            for name, image in IMAGES.items():
                archive.writestr(name, png(image))
    elif kind == "npz":
        labels = [name.split("/")[0] for name in IMAGES]
        np.savez(target, images=np.stack(list(IMAGES.values())), labels=np.array(labels))
    elif kind == "jsonl.gz":
        rows = [json.dumps({"path": f"pets/{n}", "label": n.split("/")[0]}) for n in IMAGES]
        target.write_bytes(gzip.compress("\n".join(rows).encode()))
    else:
        return folder
    return target


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "jsonl.gz"])
def test_every_kind_of_source_gives_the_same_images(folder, kind):
    data = Images(str(places(folder, kind)))
    assert data.names == ["cat", "dog"]
    items = data.prepare("train", None).items
    assert [item.label for item in items] == ["cat"] * 3 + ["dog"] * 3
    for item, image in zip(items, IMAGES.values(), strict=True):
        assert np.array_equal(data.decode(item, None), image)


def test_a_name_says_class_group_and_split():
    pattern = r"(?P<label>\d)_(?P<group>[a-z]+)_"
    assert parse_name("7_theo_3.wav", pattern) == ("7", "theo", None)
    assert parse_name("notes.wav", pattern) is None
    assert parse_name("val/cat/1.png", None) == ("cat", "", "validation")
    assert parse_name("cat/1.png", None) == ("cat", "", None)
    assert parse_name("1.png", None) is None


def test_arrays_name_their_classes_and_splits(tmp_path):
    images, names = np.zeros((4, 2, 2), np.uint8), np.array(["a", "b"])
    np.savez(tmp_path / "x.npz", images=images, kind=[0, 1, 1, 0], kind_names=names,
             who=[1, 1, 2, 2], split=[0, 0, 1, 1])  # fmt: skip
    items = Source(str(tmp_path / "x.npz"), (), label="kind", group="who").items
    assert [(i.label, i.group, i.split) for i in items] == [
        ("a", "1", "train"), ("b", "1", "train"), ("b", "2", "test"), ("a", "2", "test"),
    ]  # fmt: skip
    assert items[2].origin.endswith("x.npz:images[2]")


@pytest.mark.parametrize("name", list_shipped())
def test_a_shipped_set_has_a_licence_and_both_splits(name):
    source = Source(f"asset:{name}", (".wav",), label="char" if name == "omniglot" else None)
    assert source.licence
    assert {item.split for item in source.items} == {"train", "test"}


def test_what_is_wrong_is_named_with_file_and_row(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"no image")
    rows = Images(str(tmp_path)).prepare("train", None)
    with pytest.raises(UserError, match="no image") as caught:
        rows.view(0, 0, None)
    assert caught.value.where.endswith("bad/1.png")
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 3, 3), np.float64), labels=[0, 1])
    with pytest.raises(UserError, match="float64 of shape") as caught:
        Images(str(tmp_path / "x.npz")).prepare("train", None).view(1, 0, None)
    assert caught.value.where.endswith("x.npz:images[1]")
    (tmp_path / "x.jsonl").write_text('{"path": "bad/2.png", "label": "a"}\n')
    with pytest.raises(UserError, match="no such file") as caught:
        Source(str(tmp_path / "x.jsonl"), PNG)
    assert caught.value.where.endswith("x.jsonl:1")
    (tmp_path / "y.jsonl").write_text('{"path": "bad/1.png", "kind": "a"}\n')
    with pytest.raises(UserError, match="no column 'label'"):
        Source(str(tmp_path / "y.jsonl"), PNG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "no such file"),
        ({"path": "asset:nothing"}, "no such set"),
        ({"path": "asset:fashion", "label": "kind"}, "no array 'kind'"),
        ({"path": "asset:fashion", "array": "pixels"}, "no array 'pixels'"),
        ({"path": "asset:fashion", "pattern": r"\d"}, "no group called label"),
    ],
)
def test_a_source_that_is_not_there_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Source(suffixes=PNG, **options)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 2, 2)), labels=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        Source(str(tmp_path / "x.npz"), PNG)
