"""`ftcli preview` and `ftcli prepare` on the packaged job."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))


def test_preview_marks_what_is_learned(ftcli):
    ended = ftcli("preview", "qlora_mini", "-n", "2")
    assert ended.status == 0, ended.err
    assert "<|bos|>name[Alimentum], area[city centre], familyFriendly[no]\n" in ended.out
    sentence = "There is a place in the city centre, Alimentum, that is not family-friendly."
    assert f"⟦{sentence}<|eos|>⟧" in ended.out
    assert "train.jsonl.gz:1  53 tokens, 25 learned" in ended.out
    assert ended.out.count("positions and attention begin anew") == 1


def test_preview_follows_overrides(ftcli):
    ended = ftcli("preview", "qlora_mini", "data.template=chat", "data.packing=none", "-n", "2")
    assert "<|im_start|>assistant\n⟦There is a place" in ended.out
    assert "padded on the right" in ended.out


def test_preview_shows_colours_where_there_are_some(ftcli, monkeypatch):
    from ftcli.core.console import console

    console.cache_clear()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    try:
        out = ftcli("preview", "qlora_mini", "-n", "1").out
    finally:
        console.cache_clear()
    assert "⟦" not in out
    assert "\x1b[32mThere is a place in the city centre" in out


def test_preview_as_json(ftcli):
    rows = json.loads(ftcli("preview", "qlora_mini", "-n", "3", "--json").out)
    assert len(rows) == 3
    learned = "".join(s["text"] for s in rows[0]["stretches"] if s["learned"])
    assert learned.startswith("There is a place") and learned.endswith("<|eos|>")


def test_preview_says_when_nothing_is_learned(ftcli):
    out = ftcli("preview", "qlora_mini", "data.max_length=16", "-n", "1").out
    assert "nothing in this row is learned" in out


def test_prepare_tells_what_it_cached(ftcli, tmp_path):
    first = json.loads(ftcli("prepare", "qlora_mini", "data.limit=100", "--json").out)
    assert list(first) == ["train", "validation", "test"]
    assert first["train"]["rows"] + first["validation"]["rows"] == 100
    again = ftcli("prepare", "qlora_mini", "data.limit=100")
    assert first["train"]["folders"][0] in again.out
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 3
