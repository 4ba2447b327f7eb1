"""Columns that nothing reads are listed; those that look like a part of the prompt give a warning."""

from __future__ import annotations

import pytest

from ftcli.core.errors import UserError
from ftcli.data.dataset import Data

ROW = {"prompt": "Where is Oslo?", "completion": "There."}


@pytest.mark.parametrize(
    ("extra", "asking"),
    [
        ({"context": "Oslo is a city."}, ["context"]),
        ({"retrieved_documents": ["Oslo is a city."]}, ["retrieved_documents"]),
        ({"images": ["a.png"]}, ["images"]),
        ({"originalQuestion": "Where?!"}, ["originalQuestion"]),
        ({"category": "open_qa", "prompt_id": "ab12", "source": "x"}, []),
        ({"context": "", "images": [], "question": None}, []),
        ({"original_question": "Where is Oslo?"}, []),  # it stands in the prompt
    ],
)
def test_what_looks_like_a_prompt_is_not_dropped_without_a_word(
    write_rows, tokenizer, caplog, extra, asking
):
    data = Data(str(write_rows([{**ROW, **extra}])))
    assert data.find_unused_columns().prompt_like == asking
    assert set(data.find_unused_columns().columns) == {c for c, v in extra.items() if v}
    data.prepare("train", tokenizer)
    data.sample("train", tokenizer, 1)
    assert caplog.text.count("is not used") == 2 * bool(asking)
    assert all(f"'{column}' (in 1 of the first 1 rows)" in caplog.text for column in asking)


def test_a_column_of_later_rows_is_seen_too(write_rows):
    data = Data(str(write_rows([ROW, {**ROW, "context": "x y"}, {**ROW, "context": "z"}])))
    assert data.find_unused_columns().columns == {"context": 2}


def test_what_a_field_is_read_from_is_used(write_rows):
    row = {"instruction": "Where?", "context": "Oslo.", "output": "There.", "refs": ["a"]}
    data = Data(str(write_rows([row])), columns={"references": "refs"})
    assert data.find_unused_columns().columns == {}


def test_a_column_that_no_row_has_is_refused(write_rows):
    data = Data(str(write_rows([{**ROW, "sys": "x"}])), format="prompt", columns={"system": "syst"})
    with pytest.raises(UserError, match="no column 'syst'") as caught:
        next(data.examples())
    assert caught.value.where == "data.columns.system" and "=null" in caught.value.fix


def test_a_file_that_breaks_off_is_still_previewed(tmp_path, tokenizer):
    path = tmp_path / "rows.json"
    path.write_text('[{"prompt": "a", "completion": "b"}, {"prompt": ', encoding="utf-8")
    assert len(Data(str(path)).sample("train", tokenizer, 1)) == 1
