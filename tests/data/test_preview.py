"""A preview shows every token once, and says what is learned."""

from __future__ import annotations

from ftcli.data.dataset import Data
from ftcli.data.preview import read_samples


def test_stretches_are_the_whole_document(tokenizer, write_rows):
    talk = [{"role": "user", "content": "Häh? 🙂"}, {"role": "assistant", "content": "Blue. 🙂"}]
    (sample,) = read_samples(Data(str(write_rows([{"messages": talk}]))), tokenizer, 3)
    text = "".join(stretch.text for stretch in sample.stretches)
    assert text == tokenizer.apply_chat_template(talk, tokenize=False)
    assert "".join(s.text for s in sample.stretches if s.learned) == "Blue. 🙂<|im_end|>"
    assert [s.text for s in sample.stretches if s.special] == ["<|im_start|>", "<|im_end|>"] * 2
    assert sample.ends and 0 < sample.learned < sample.tokens


def test_a_row_that_is_cut_does_not_end(tokenizer, write_rows):
    path = write_rows([{"prompt": "a", "completion": "b " * 50}])
    (sample,) = read_samples(Data(str(path), max_length=16), tokenizer, 1)
    assert sample.tokens == 16 and not sample.ends


def test_only_as_many_rows_as_asked_for(tokenizer, write_rows):
    path = write_rows([{"prompt": "a", "completion": "b"}] * 10)
    shown = read_samples(Data(str(path)), tokenizer, 2)
    assert [sample.origin for sample in shown] == [f"{path}:1", f"{path}:2"]
