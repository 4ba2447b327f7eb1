"""The token cache: after a kill, preparation is checked, continued and not repeated."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from ftcli.core.errors import UserError
from ftcli.data import cache, preparation
from ftcli.data.dataset import Data
from ftcli.data.tokens import Document


@pytest.fixture
def chunked(monkeypatch):
    """Make many small chunks; run the tokenizer in one thread, so that the process can fork."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(preparation, "CHUNK", 200)
    monkeypatch.setattr(preparation, "COMMIT", 1)


def source(write_rows, count):
    path = write_rows(
        [{"prompt": f"ask {i}", "completion": "say " * (i % 9 + 1)} for i in range(count)]
    )
    with open(path, "a", encoding="utf-8") as file:
        file.write("not json\n")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix == ".bin"}


def start(path, tokenizer):
    """Start another process with the same preparation; forked, as importing the libraries takes seconds."""
    process = multiprocessing.get_context("fork").Process(
        target=lambda: Data(str(path), on_error="skip").prepare("train", tokenizer)
    )
    process.start()
    return process


def test_a_preparation_that_is_killed_goes_on_where_it_was(tokenizer, write_rows, chunked):
    path = source(write_rows, 8_000)
    root = cache.token_folder()
    process = start(path, tokenizer)
    manifest = None
    while manifest is None and process.is_alive():
        manifest = next(iter(root.glob("*.partial/manifest.json")), None)
        time.sleep(0.002)
    process.kill()
    process.join()
    assert manifest is not None and not list(root.glob("*/DONE"))
    before = json.loads(manifest.read_text())["state"]["entries"]
    assert 0 < before < 8_000

    rows_seen = []
    resumed = Data(str(path), on_error="skip").prepare(
        "train", tokenizer, lambda work, counts: rows_seen.append(counts.entries)
    )
    assert rows_seen[0] == before + 200
    assert (len(resumed), resumed.skipped) == (8_000, 1)
    whole = Data(str(path), on_error="skip", cache_dir=str(root / "again")).prepare(
        "train", tokenizer
    )
    assert files(resumed.folders[0]) == files(whole.folders[0])
    assert resumed.meta == whole.meta
    assert not list(root.glob("*.partial")) and not list(root.glob("*.lock"))


def test_what_was_written_after_the_last_commit_is_cut_off(tokenizer, write_rows, chunked):
    path = source(write_rows, 900)
    whole = Data(str(path), on_error="skip").prepare("train", tokenizer)
    data = Data(str(path), on_error="skip", cache_dir=str(path.parent / "other"))

    def stop_at_600(work, counts):
        if counts.entries == 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.prepare("train", tokenizer, stop_at_600)
    (partial,) = (path.parent / "other").glob("*.partial")
    for name in ("ids", "offsets", "origins"):
        with open(partial / f"{name}.bin", "ab") as file:
            file.write(b"torn")
    again = data.prepare("train", tokenizer)
    assert files(again.folders[0]) == files(whole.folders[0])


def test_two_processes_prepare_once(tokenizer, write_rows, chunked):
    path = source(write_rows, 4_000)
    processes = [start(path, tokenizer) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (only,) = cache.token_folder().iterdir()
    assert len(Data(str(path), on_error="skip").prepare("train", tokenizer)) == 4_000
    assert [f.name for f in cache.token_folder().iterdir()] == [only.name]


def test_a_second_time_nothing_is_tokenised(tokenizer, write_rows, monkeypatch):
    path = source(write_rows, 50)
    first = Data(str(path), on_error="skip").prepare("train", tokenizer)
    monkeypatch.setattr(
        "ftcli.data.render.encode_segments", lambda *_: pytest.fail("tokenised again")
    )
    assert (
        Data(str(path), on_error="skip").prepare("train", tokenizer).folders[0] == first.folders[0]
    )


def test_every_setting_that_matters_has_its_own_tokens(tokenizer, write_rows):
    path = str(source(write_rows, 50))
    variants = [{}, {"max_length": 8}, {"train_on": "all"}, {"template": "chat"}, {"limit": 10},
                {"prompt_template": "Q: {prompt}\n"}, {"validation": 0.1},
                {"template": "chat", "system": "Be brief."}]  # fmt: skip
    folders = {
        Data(path, on_error="skip", **settings).prepare("train", tokenizer).folders[0]
        for settings in variants
    }
    assert len(folders) == len(variants)


def test_packing_and_the_calls_made_before_do_not_matter(tokenizer, write_rows):
    path = str(source(write_rows, 50))
    first = Data(path, on_error="skip").prepare("train", tokenizer)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    second = Data(path, on_error="skip", packing="bins").prepare("train", tokenizer)
    assert first.folders[0] == second.folders[0]


@pytest.mark.parametrize("name", ["ids.bin", "offsets.bin", "origins.bin", "meta.json"])
def test_tokens_that_were_damaged_are_made_again(tokenizer, write_rows, name):
    path = source(write_rows, 50)
    whole = files(Data(str(path), on_error="skip").prepare("train", tokenizer).folders[0])
    (folder,) = (f for f in cache.token_folder().iterdir() if f.is_dir())
    with open(folder / name, "r+b") as file:
        file.truncate(file.seek(0, 2) // 2)
    again = Data(str(path), on_error="skip").prepare("train", tokenizer)
    assert files(again.folders[0]) == whole and len(again) == 50


def test_a_part_that_lost_bytes_is_begun_again(tmp_path):
    document = Document(np.arange(9, dtype=np.int32), np.ones(9, dtype=np.uint8))
    for _ in range(2):
        writer = cache.Writer(tmp_path / "x.partial")
        assert writer.documents == 0
        writer.append(document, "file:1")
        writer.commit({})
        assert cache.Writer(tmp_path / "x.partial").documents == 1
        (tmp_path / "x.partial" / "ids.bin").write_bytes(b"")


def test_an_error_leaves_nothing_that_counts_as_done(tokenizer, write_rows):
    path = source(write_rows, 50)
    with pytest.raises(UserError, match="not valid JSON"):
        Data(str(path)).prepare("train", tokenizer)
    assert not list(cache.token_folder().glob("*/DONE"))


def test_memory_does_not_grow_with_the_data(tmp_path):
    """The writer needs no more memory after many documents than after few."""
    writer = cache.Writer(tmp_path / "x.partial")
    document = Document(np.arange(1000, dtype=np.int32), np.ones(1000, dtype=np.uint8))
    import tracemalloc

    tracemalloc.start()
    sizes = []
    for _ in range(2):
        for _ in range(2000):
            writer.append(document, "file:1")
        writer.commit({})
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] - sizes[0] < 100_000  # 2,000 documents are 10 MB
