"""A hub data set's images and sounds are read still encoded, by the names of its classes."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from ftcli.core.errors import UserError
from ftcli.data.media import hub
from ftcli.data.media.images import Images


def png(value: int) -> dict:
    stream = io.BytesIO()
    Pillow.fromarray(np.full((4, 4, 3), value, np.uint8)).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    features = Features(
        {"img": Image(), "fine": ClassLabel(names=["cat", "dog"]), "n": Value("int8")}
    )
    splits = {
        name: Dataset.from_dict(
            {"img": [png(v) for v in values], "fine": [0, 1], "n": [1, 2]}, features
        )
        for name, values in {"train": (10, 20), "test": (30, 40)}.items()
    }

    def source(path, split):
        return SimpleNamespace(dataset=splits[split], place=f"{path}/{split}", content_hash=split)

    monkeypatch.setattr(hub, "Hub", source)


def test_splits_classes_and_pixels():
    data = Images("owner/pets", label="fine", group="n", test="test")
    assert data.names == ["cat", "dog"]
    rows = data.prepare("test", None)
    assert len(rows) == 2 and rows.view(1, 0, None)[0, 0].tolist() == [40, 40, 40]
    assert rows.items[1].origin == "owner/pets/test[1]" and rows.items[1].group == "2"
    assert {i.digest for i in rows.items}.isdisjoint(
        i.digest for i in data.prepare("train", None).items
    )


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no column 'label'; it has img, fine, n"):
        Images("owner/pets").prepare("train", None)
