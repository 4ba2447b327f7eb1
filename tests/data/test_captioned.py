"""Images with captions: the shipped emoji, local files, splits and batches."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ftcli.core.errors import UserError
from ftcli.data.captioned import Captioned
from ftcli.data.media.pictures import draw_grid, load_picture, to_bytes
from ftcli.data.sources.hub import Hub
from ftcli.models.ldm import LdmSource


@pytest.fixture(scope="module")
def tokenizer():
    return LdmSource("asset:ldm_emoji", tokenizer="asset:llama_mini").load_tokenizer()


def emoji(**options) -> Captioned:
    return Captioned(**({"path": "asset:emoji", "size": 32, "max_length": 16} | options))


def test_shipped_emoji_are_what_their_note_says(tokenizer):
    assert len(emoji().prepare("train", tokenizer)) == 451
    flags = emoji(split="flags").prepare("train", tokenizer)
    assert len(flags) == 261
    row = flags.texts.index("flag of Italy")
    pixels = flags.row(row)["pixels"]
    left, right = pixels[:, 16, 5], pixels[:, 16, 26]
    assert left[1] > left[0] + 50 and right[0] > right[1] + 50  # green at the hoist, red at the fly


def test_held_out_captions_are_in_no_training_row(tokenizer):
    data = emoji(validation=0.1)
    train, held = (data.prepare(s, tokenizer) for s in ("train", "validation"))
    assert len(train) + len(held) == 451 and 25 <= len(held) <= 65
    assert not set(train.texts) & set(held.texts)
    assert train.fingerprint != held.fingerprint
    assert (
        data.prepare("train", tokenizer).fingerprint
        == emoji(validation=0.1).prepare("train", tokenizer).fingerprint
    )


def test_another_split_of_the_source_is_the_test(tokenizer):
    data = emoji(split="flags", validation=0.2, test="train")
    assert data.splits == ["train", "validation", "test"]
    assert len(data.prepare("test", tokenizer)) == 451


def test_batches_hold_images_and_captions(tokenizer):
    loader = emoji().loader("train", tokenizer, 8, seed=1)
    batch = next(iter(loader))
    pixels, ids = batch["inputs"]["pixels"], batch["inputs"]["input_ids"]
    assert pixels.shape == (8, 3, 32, 32) and pixels.dtype == torch.uint8
    assert ids.shape == (8, 16) and batch["empty"].shape == (16,)
    assert batch["num_supervised"] == 8 and len(set(batch["indices"])) == 8
    assert loader.list_batch_indices(0) != loader.list_batch_indices(1) and sorted(
        sum(loader.list_batch_indices(1), [])
    ) == list(range(451))
    two = [emoji().loader("train", tokenizer, 8, seed=1, rank=r, world=2) for r in (0, 1)]
    assert len(two[0]) == len(two[1]) == len(loader) // 2
    assert not set(sum(two[0].list_batch_indices(0), [])) & set(
        sum(two[1].list_batch_indices(0), [])
    )


def test_files_of_ones_own_are_cut_to_their_middle_and_scaled(tmp_path, tokenizer):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "a.png")
    rows = [{"file": "a.png", "caption": "green"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"image": "file", "text": "caption"}
    data = Captioned(str(tmp_path / "rows.jsonl"), size=16, max_length=16, columns=columns)
    captions = data.prepare("train", tokenizer)
    pixels = captions.row(0)["pixels"]
    assert pixels.shape == (3, 16, 16)
    assert pixels[:, 8, 8].tolist() == [10, 200, 30] and captions.texts == ["green"]
    with pytest.raises(UserError, match="no image in 'image'"):
        list(Captioned(str(tmp_path / "rows.jsonl")).examples())


@pytest.fixture
def pictures(monkeypatch) -> None:
    """A hub data set of two images, red and blue, with captions and numbers."""
    from datasets import Dataset, Features, Value
    from datasets import Image as Feature

    def encoded(color: tuple[int, int, int]) -> dict:
        stream = io.BytesIO()
        Image.new("RGB", (40, 20), color).save(stream, "png")
        return {"bytes": stream.getvalue(), "path": None}

    features = Features({"image": Feature(), "text": Value("string"), "n": Value("int8")})
    columns = {"image": [encoded((255, 0, 0)), encoded((0, 0, 255))], "text": ["red", "blue"]}
    rows = Dataset.from_dict(columns | {"n": [1, 2]}, features)
    monkeypatch.setattr(Hub, "dataset", rows)
    monkeypatch.setattr(Hub, "content_hash", "of a file on disk, which is read as it is")


def test_images_of_the_hub_are_opened_with_their_batch(pictures, tokenizer, monkeypatch):
    opened: list[object] = []
    whole = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a) or whole(*a, **k))
    captions = Captioned("owner/colours", size=8, max_length=16).prepare("train", tokenizer)
    assert captions.texts == ["red", "blue"] and not opened
    assert captions.batch([1])["inputs"]["pixels"][0, :, 4, 4].tolist() == [0, 0, 255]
    assert len(opened) == 1 and captions.origins == [
        "owner/colours/train[0]",
        "owner/colours/train[1]",
    ]
    with pytest.raises(UserError, match="no images in 'n'; it has image, text, n"):
        Captioned("owner/colours", columns={"image": "n"}).prepare("train", tokenizer)


def test_images_alone_have_empty_captions(pictures, tokenizer):
    data = Captioned("owner/colours", size=8, max_length=16, columns={"text": None}, validation=0.5)
    train, held = (data.prepare(s, tokenizer) for s in ("train", "validation"))
    assert train.texts == held.texts == [""] and train.origins != held.origins
    assert torch.equal(train.ids, train.empty)


def test_mistakes_are_named(tmp_path, tokenizer):
    with pytest.raises(UserError, match="cannot be held out"):
        emoji(validation=1.5)
    with pytest.raises(UserError, match="neither image nor text"):
        emoji(columns={"picture": "x"})
    with pytest.raises(UserError, match="no split 'validation'"):
        emoji().prepare("validation", tokenizer)
    with pytest.raises(UserError, match="reads at most 16 tokens"):
        emoji(max_length=17).prepare("train", tokenizer)
    with pytest.raises(UserError, match="cannot be opened"):
        load_picture("none.png", None, tmp_path, 8)


def test_a_grid_has_every_image_in_its_place():
    images = torch.stack([torch.full((3, 4, 4), v, dtype=torch.uint8) for v in (10, 20, 30)])
    sheet = np.array(draw_grid(images, columns=2, gap=1, scale=2))
    assert sheet.shape == (22, 22, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((4, 4), (4, 14), (14, 4), (14, 14))] == [
        10,
        20,
        30,
        255,
    ]


def test_bytes_of_pixels_round():
    assert to_bytes(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist() == [0, 0, 128, 255]


def test_a_preview_is_a_picture_with_captions(tmp_path, tokenizer):
    shown = emoji().preview("train", tokenizer, 3, tmp_path / "p.png")
    assert [preview.text for preview in shown] == ["monkey face", "monkey", "gorilla"]
    assert Image.open(tmp_path / "p.png").size == (3 * 34 * 4 + 8, 36 * 4)
