"""The ways of generating answer the same prompts, and equal answers are counted as such."""

from __future__ import annotations

import decode

from ftcli.models.causal_lm import CausalLMSource


def test_an_answer_ends_with_its_first_stop():
    assert decode.cut_at_stop([5, 2, 7, 2], [2]) == [5, 2]
    assert decode.cut_at_stop([5, 7], [2]) == [5, 7]


def test_equal_answers_are_counted_in_order():
    assert decode.count_equal(["a", "b"], ["b", "a"]) == 0
    assert decode.count_equal([[1], [2]], [[1], [3]]) == 1


def test_every_way_gives_the_library_s_tokens_in_float32():
    records = decode.compare(
        CausalLMSource("asset:llama_mini", dtype="float32"), count=3, new=6, rounds=1
    )
    assert [record["way"] for record in records] == ["transformers", "evaluation", "GRPO sampling"]
    assert all(record["same_answers"] == 3 and record["tok_s"] > 0 for record in records)
    assert records[0]["ratio"] == 1
    assert 3 <= records[0]["tokens"] <= 18
    short, long = map(int, records[0]["prompt_lengths"].split("-"))
    assert long > 2 * short
