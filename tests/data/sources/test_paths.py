"""Paths that are not a plain file are read completely or refused with one message; nothing is read twice."""

from __future__ import annotations

import os

import pytest

from ftcli.core.errors import UserError
from ftcli.data.sources import find_source
from ftcli.data.sources.files import exists_locally


def prompts(path):
    return [row.values["prompt"] for row in find_source(str(path)).rows()]


def message(path):
    with pytest.raises(UserError) as caught:
        list(find_source(str(path)).rows())
    assert caught.value.fix
    return str(caught.value)


def test_a_folder_that_links_to_itself_is_read_once(tmp_path, write_rows):
    write_rows([{"prompt": "a"}], "a.jsonl")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
    assert prompts(tmp_path) == ["a"]


def test_a_shard_whose_link_leads_nowhere_is_not_left_out(tmp_path, write_rows):
    write_rows([{"prompt": "a"}], "train-0.jsonl")
    (tmp_path / "train-1.jsonl").symlink_to(tmp_path / "blob")
    for path in (tmp_path, f"{tmp_path}/*.jsonl", tmp_path / "train-1.jsonl"):
        assert "train-1.jsonl is a link to a file that does not exist" in message(path)


def test_a_link_to_itself_is_a_message(tmp_path):
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "x.jsonl")
    assert "x.jsonl is a link to a file that does not exist" in message(tmp_path / "x.jsonl")


def test_a_folder_with_the_name_of_a_file(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    assert "x.jsonl is an empty folder" in message(tmp_path / "x.jsonl")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs /proc")
def test_what_the_system_refuses_while_reading_is_a_message(tmp_path):
    (tmp_path / "x.jsonl").symlink_to("/proc/self/mem")
    assert "cannot be read: " in message(tmp_path / "x.jsonl")


def test_no_permission_is_a_message(tmp_path, write_rows, monkeypatch):
    path = write_rows([{"prompt": "a"}])
    real = open

    def refuse(file, *args, **kwargs):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    assert "cannot be read: Permission denied" in message(path)
    with pytest.raises(UserError, match="Permission denied"):
        _ = find_source(str(path)).content_hash


def test_a_folder_that_may_not_be_listed_is_a_message(tmp_path, write_rows, monkeypatch):
    write_rows([{"prompt": "a"}], "a.jsonl")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "closed  cannot be read: Permission denied" in message(tmp_path)


@pytest.mark.parametrize(
    "path", ["a" * 5000, "./" + "a" * 5000 + ".jsonl", "~nobody-here/x.jsonl", "a\0b/c"]
)
def test_impossible_names_are_messages(path):
    assert not exists_locally(path)
    with pytest.raises(UserError):
        find_source(path if "/" in path else f"./{path}")


def test_a_name_that_is_not_utf8_is_a_message(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    open(name, "w").close()
    assert "is not UTF-8" in message(name) and message(name).isascii()


def test_files_that_are_not_read_are_named(tmp_path, write_rows):
    for name in ("train.jsonl", "validation.jsonl", "more.jsonl"):
        write_rows([{"prompt": name}], name)
    for name in ("part.arrow", "README.md"):
        (tmp_path / name).touch()
    source = find_source(str(tmp_path))
    assert source.describe()["not_read"] == ["more.jsonl", "part.arrow"]
    assert "not read: more.jsonl, part.arrow" in source.notes[0]
    assert not find_source("asset:e2e").notes
