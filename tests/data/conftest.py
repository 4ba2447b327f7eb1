"""The shipped tokenizer, and a token cache that no test shares with the user."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

import ftcli

from . import templates

FOLDER = Path(ftcli.__file__).parent / "assets" / "models" / "llama_mini"


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture
def with_template(tokenizer):
    """Return a function: name or text of a template -> a tokenizer with it and its special tokens."""

    def make(name):
        chat_tokenizer = copy.deepcopy(tokenizer)
        chat_tokenizer.chat_template = {**templates.ALL, **templates.ENDLESS}.get(name, name)
        chat_tokenizer.add_tokens(templates.SPECIALS.get(name, []), special_tokens=True)
        return chat_tokenizer

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTCLI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_rows(tmp_path):
    """Return a function: (rows, name) -> path of a JSONL file."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
