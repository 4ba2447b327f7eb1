"""Data of a stranger: scripts, archives and cached tokens are read as bytes."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data
from ftcli.data.media.sources import Source
from tests.security.test_models import Bomb


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "png")
    return file.getvalue()


def test_a_script_in_a_data_folder_is_not_run(attack):
    """`datasets` used to run FOLDER/FOLDER.py."""
    from ftcli.data.sources.hub import Hub

    folder = attack.folder / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(attack.code)
    (folder / "dataset_infos.json").write_text("{}")
    with pytest.raises(UserError):
        list(Data(path="rows").examples("train"))
    with pytest.raises(UserError):
        list(Hub("rows").rows())
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    list(Data(path="rows").examples("train"))
    assert not attack.won


def test_a_zip_stays_in_memory(attack):
    """Nothing is unpacked, whatever its entries are called and whatever kind they are."""
    names = [
        "../../out.png",
        "/tmp/ftcli_out.png",
        "a/../../../out.png",
        "..\\..\\out.png",
        "a/b.png",
    ]
    with zipfile.ZipFile("pictures.zip", "w") as archive:
        for name in names:
            archive.writestr(name, png())
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    before = sorted(attack.folder.parent.rglob("*"))
    items = Source("pictures.zip", (".png",)).items
    read = {item.origin.rpartition(":")[2]: item.read() for item in items}
    assert read["a/link.png"] == b"/etc/passwd"  # what it says, not what it points at
    assert sorted(attack.folder.parent.rglob("*")) == before
    assert not os.path.exists("/tmp/ftcli_out.png")


def test_a_zip_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a/b.png", "w", force_zip64=True) as file:
            for _ in range(65):
                file.write(bytes(1 << 20))
        archive.writestr("a/c.jpg", b"small")
    with pytest.raises(UserError, match="unpacks"):
        Source("pictures.zip", (".png",))
    (item,) = Source("pictures.zip", (".jpg",)).items  # what is not read may swell
    assert item.origin.endswith("a/c.jpg")


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_pickle_in_an_array_file_is_not_run(attack, name):
    arrays = {"images": np.zeros((2, 4, 4)), "labels": np.array([0, 1])}
    arrays[name] = np.array([Bomb(attack.shell)] * 2, dtype=object)
    np.savez("arrays.npz", **arrays)
    with pytest.raises(UserError, match="cannot be read"):
        Source("arrays.npz", (".png",))
    assert not attack.won
    np.load("arrays.npz", allow_pickle=True)[name]
    assert attack.won, "without the guard the attack works, or it is none"


def test_cached_tokens_are_numbers(attack):
    """Every file of the cache replaced by a pickle: refused or read as numbers."""
    from ftcli.data.tokens import TokenizedSplit
    from ftcli.models.causal_lm import CausalLMSource

    (attack.folder / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    tokenizer = CausalLMSource(path="asset:llama_mini").load_tokenizer()
    folder = Data(path="a.jsonl").prepare("train", tokenizer).folders[0]
    bomb = pickle.dumps(Bomb(attack.shell)) * 8
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(bomb)
        try:
            tokens = TokenizedSplit(folder)
            [tokens.row(row) for row in range(len(tokens))]
            tokens.origin(0)
        except (UserError, ValueError, IndexError, KeyError, OSError):
            pass
        assert not attack.won, file.name
        file.write_bytes(whole)


def test_a_file_that_says_it_is_a_table_is_not_unpickled(attack):
    for name in ("a.jsonl", "a.csv", "a.parquet", "a.json", "a.txt"):
        (attack.folder / name).write_bytes(pickle.dumps(Bomb(attack.shell)))
        try:
            list(Data(path=name).examples("train"))
        except UserError:
            continue
    assert not attack.won
