"""The table of `ftcli bench`."""

from __future__ import annotations

from ftcli.cli.bench_table import format_bench

RESULT = {
    "model": "llama_mini", "method": "Peft", "dtype": "bfloat16", "stored_as": "nf4",
    "precision": "bf16", "device": "a CPU", "threads": 1, "rows": 48, "rows_a_step": 4,
    "rounds": 1, "steps": 5, "packages": {"torch": "2.13"}, "ftcli": {"tok_s": 1234.5},
}  # fmt: skip


def test_one_is_singular_and_more_are_plural():
    text = format_bench(RESULT)
    assert "with 1 thread\n" in text and "medians of 1 round of 5" in text
    text = format_bench(RESULT | {"threads": 2, "rounds": 3})
    assert "with 2 threads\n" in text and "medians of 3 rounds of 5" in text
