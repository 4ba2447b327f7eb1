"""The sample that `check` reads: figures of real rows, and no trace in the token cache."""

import json

import pytest

from ftcli.core.errors import UserError
from ftcli.planning.sample import findings, sampled, template
from tests.planning.drafts import draft


def sample_of(tmp_path, texts, *overrides, rows=256):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in texts))
    job = draft(
        "data=prompt", f"data.path={file}", "data.columns={prompt: q, completion: a}",
        "data.validation=null", f"data.cache_dir={tmp_path / 'cache'}", *overrides,
    )  # fmt: skip
    with sampled(job.data, job.tokenizer, rows) as found:
        pass
    assert not (tmp_path / "cache").exists()
    return found


def test_lengths_mask_and_the_first_row(tmp_path):
    found = sample_of(tmp_path, [("one two three", "four five"), ("six", "seven eight nine")])
    assert len(found.lengths) == 2 and found.whole
    assert 0.3 < found.learned < 0.8 and found.cut == 0
    prompt, learned = found.shown
    assert "one two three" in prompt and learned.startswith("four five")
    assert [f.status for f in findings(found, 512)] == ["ok", "ok"]


def test_rows_that_are_cut_are_counted_and_warned_of(tmp_path):
    texts = [("one", "two " * n) for n in (1, 2, 3, 60, 80)]
    found = sample_of(tmp_path, texts, "data.max_length=40")
    assert found.cut == pytest.approx(2 / 5)
    assert found.lengths.max() == 40 and found.meta["longest"] > 80
    warning = [f for f in findings(found, 40) if f.status == "warn"]
    assert len(warning) == 1 and "40.0 %" in warning[0].text
    assert warning[0].fix == f"data.max_length={found.meta['longest']}"


def test_the_histogram_counts_every_document_once(tmp_path):
    found = sample_of(tmp_path, [("one", "two " * n) for n in range(1, 40)])
    bars = found.histogram()
    assert sum(bar["documents"] for bar in bars) == len(found.lengths) == 39
    assert bars[0]["from"] == found.lengths.min() and bars[-1]["to"] == found.lengths.max()


def test_a_source_with_more_rows_is_not_whole(tmp_path):
    assert not sample_of(tmp_path, [("one", "two")] * 9, rows=4).whole


def test_a_bad_row_within_the_sample_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        sample_of(tmp_path, [("one", "two"), ("three", None)])
    assert caught.value.where.endswith("rows.jsonl:2")


def test_a_chat_is_written_with_the_template_of_the_tokenizer():
    job = draft("data=prompt", "data.path=asset:e2e", "data.template=chat")
    found = template(job.data, job.tokenizer, {"prompt": "a", "completion": "b"})
    assert "chat template" in found.text and "prefix differencing" in found.text
    job.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        template(job.data, job.tokenizer, {"messages": []})


def test_plain_rows_and_text_say_how_they_are_written():
    job = draft("data.prompt_template='Q: {prompt} A:'")
    assert "'Q: {prompt} A:'" in template(job.data, job.tokenizer, {"prompt": "a"}).text
    assert template(job.data, job.tokenizer, {"text": "a"}).text.startswith("none")
