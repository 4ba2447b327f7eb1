"""Tokenizers are known to llama.cpp by how they cut text, whatever their vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from ftcli.core.errors import UserError
from ftcli.models.hub import resolve
from ftcli.serving.pretokenizers import find_llama_name

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def folder(tmp_path: Path, *steps, normalizer=None) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def split(pattern: str, behavior: str = "isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior)


def raw():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def test_the_shipped_tokenizer_cuts_text_as_smollm_does():
    assert find_llama_name(Path(resolve("asset:llama_mini"))) == "smollm"


def test_structures_have_the_name_of_the_model_that_is_known_for_them(tmp_path):
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert find_llama_name(folder(tmp_path, words)) == "gpt-2"
    assert find_llama_name(folder(tmp_path, split(LLAMA3), raw())) == "llama-bpe"
    assert find_llama_name(folder(tmp_path, split(PRETOKENIZE_REGEX), raw())) == "qwen2"


@pytest.mark.parametrize(
    "steps",
    [
        (split(r"\d+"), raw()),
        (split(LLAMA3, "removed"), raw()),
        (pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(False)),
        (pre_tokenizers.ByteLevel(add_prefix_space=True),),
        (pre_tokenizers.Whitespace(),),
    ],
)
def test_another_structure_is_refused(tmp_path, steps):
    with pytest.raises(UserError, match="knows no pre-tokenizer"):
        find_llama_name(folder(tmp_path, *steps))


def test_text_that_is_changed_before_is_refused(tmp_path):
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(UserError, match="knows no pre-tokenizer"):
        find_llama_name(folder(tmp_path, words, normalizer=normalizers.Lowercase()))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert content["normalizer"] == {"type": "Lowercase"}
