"""The rows that `check` samples: figures of real rows, and nothing in the token cache."""

import json

import pytest

from ftcli.core.errors import UserError
from ftcli.planning.data_findings import check_sample, check_template, sample_tokens
from tests.planning.jobs import build_job


def sample_of(tmp_path, texts, *overrides, rows=256):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in texts))
    job = build_job(
        "data=prompt", f"data.path={file}", "data.columns={prompt: q, completion: a}",
        "data.validation=null", f"data.cache_dir={tmp_path / 'cache'}", *overrides,
    )  # fmt: skip
    sample = sample_tokens(job.data, job.tokenizer, rows)
    assert not (tmp_path / "cache").exists()
    return sample


def test_lengths_mask_and_the_first_row(tmp_path):
    sample = sample_of(tmp_path, [("one two three", "four five"), ("six", "seven eight nine")])
    assert len(sample.lengths) == 2 and sample.whole
    assert 0.3 < sample.learned < 0.8 and sample.cut == 0
    prompt, learned = sample.shown
    assert "one two three" in prompt and learned.startswith("four five")
    assert [f.status for f in check_sample(sample, 512)] == ["ok", "ok"]


def test_rows_that_are_cut_are_counted_and_warned_of(tmp_path):
    texts = [("one", "two " * n) for n in (1, 2, 3, 60, 80)]
    sample = sample_of(tmp_path, texts, "data.max_length=40")
    assert sample.cut == pytest.approx(2 / 5)
    assert sample.lengths.max() == 40 and sample.meta["longest"] > 80
    warning = [f for f in check_sample(sample, 40) if f.status == "warn"]
    assert len(warning) == 1 and "40.0 %" in warning[0].text
    assert warning[0].fix == f"data.max_length={sample.meta['longest']}"


def test_the_histogram_counts_every_document_once(tmp_path):
    sample = sample_of(tmp_path, [("one", "two " * n) for n in range(1, 40)])
    bars = sample.histogram()
    assert sum(bar["documents"] for bar in bars) == len(sample.lengths) == 39
    assert bars[0]["from"] == sample.lengths.min() and bars[-1]["to"] == sample.lengths.max()


def test_a_source_with_more_rows_is_not_whole(tmp_path):
    assert not sample_of(tmp_path, [("one", "two")] * 9, rows=4).whole


def test_a_bad_row_within_the_sample_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        sample_of(tmp_path, [("one", "two"), ("three", None)])
    assert caught.value.where.endswith("rows.jsonl:2")


def test_a_chat_is_written_with_the_template_of_the_tokenizer():
    job = build_job("data=prompt", "data.path=asset:e2e", "data.template=chat")
    sample = check_template(job.data, job.tokenizer, {"prompt": "a", "completion": "b"})
    assert "chat template" in sample.text and "prefix differencing" in sample.text
    job.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        check_template(job.data, job.tokenizer, {"messages": []})


def test_plain_rows_and_text_say_how_they_are_written():
    job = build_job("data.prompt_template='Q: {prompt} A:'")
    assert "'Q: {prompt} A:'" in check_template(job.data, job.tokenizer, {"prompt": "a"}).text
    assert check_template(job.data, job.tokenizer, {"text": "a"}).text.startswith("none")
