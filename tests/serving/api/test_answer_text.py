"""Text that streams token by token is the text of all tokens, and never shows what a stop string cuts."""

from __future__ import annotations

from pathlib import Path

import pytest

import ftcli
from ftcli.serving.api.answer_text import AnswerText

LLAMA = Path(ftcli.__file__).parent / "assets" / "models" / "llama_mini"
TEXT = "  The café 日本 😀 is  by the river. \n\nEND of it "


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(LLAMA)


def stream(text: AnswerText, tokens: list[int]) -> list[str]:
    """Every piece of an answer; tokens after a stop string are not pushed."""
    pieces = []
    for token in tokens:
        pieces.append(text.push(token))
        if text.stopped:
            break
    return [*pieces, text.finish()]


@pytest.mark.parametrize("strip", [True, False])
def test_pieces_are_whole_characters_and_add_up_to_the_answer(tokenizer, strip):
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    text = AnswerText(tokenizer, strip=strip)
    pieces = stream(text, ids)
    assert "".join(pieces) == text.given == (whole.strip() if strip else whole)
    assert "😀" in whole and not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 10
    lazy = AnswerText(tokenizer, strip=strip, eager=False)
    assert stream(lazy, ids) == ["", *[""] * (len(ids) - 1), text.given]


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("stop", [" river", "r. \n\nEND", "日本", "T", "by", "e"])
def test_a_stop_string_cuts_wherever_tokens_split_it(tokenizer, stop, strip):
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    whole = tokenizer.decode(ids)
    kept = whole[: whole.index(stop)]
    text = AnswerText(tokenizer, [stop, "not in it"], strip)
    pieces = stream(text, ids)
    assert text.stopped and "".join(pieces) == (kept.strip() if strip else kept)


def test_the_beginning_of_a_stop_string_is_shown_once_it_is_none(tokenizer):
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    text = AnswerText(tokenizer, ["river!", "it forever"], strip=False)
    assert "".join(stream(text, ids)) == tokenizer.decode(ids) and not text.stopped
