"""Tables take medians over rounds, ratios of ftcli to the others, and fill only their own block of the page."""

from __future__ import annotations

import pytest
import table

RESULT = {
    "machine": {"device": "two cores", "threads": 2, "packages": {"torch": "2"}, "rounds": 3, "missing": ["trl"]},
    "records": [
        {
            "shape": "tiny", "precision": "fp32", "program": "ceiling", "gflop_s": 150.0, "ceiling_tok_s": 800.0,
            "rows": {"mean_length": 160.2, "p90_length": 360, "longest": 500, "label_share": 0.4},
        },
        *(
            {
                "shape": "tiny", "precision": "fp32", "program": program, "round": round_,
                "tok_s": speed, "peak_mb": 500.0, "first_step_s": 5.0,
            }
            for program, speeds in (("ftcli", (200, 400, 4000)), ("plain", (100, 200, 300)))
            for round_, speed in enumerate(speeds)
        ),
        {"shape": "tiny", "precision": "fp32", "program": "torchtune", "round": 0, "error": "no module"},
        {"program": "ftcli", "command": "--help", "seconds": 0.19},
    ],
}  # fmt: skip


def test_a_median_is_no_mean():
    medians = table.median_figures(RESULT["records"])[("tiny", "fp32")]
    assert medians["ftcli"]["tok_s"] == 400
    assert set(medians) == {"ftcli", "plain"}


def test_ratios_shares_errors_and_what_is_missing_are_shown():
    text = table.format_side_by_side(RESULT)
    assert "| tiny fp32 | 400 | 200 | 2.00 | 150 | 0.50 |" in text
    assert "| tiny fp32 | 500 | 500 | 1.00 |" in text
    assert "Not installed, so not measured: trl." in text
    assert "torchtune, tiny fp32: no module" in text
    assert "| `ftcli --help` | 0.19 |" in text


def test_a_block_is_filled_and_filled_again():
    page = "a\n<!-- x -->\nold\n<!-- end x -->\nb\n<!-- y -->\nkept\n<!-- end y -->\n"
    once = table.fill_block(page, "x", "new \\1")
    assert once == page.replace("old", "new \\1")
    assert table.fill_block(once, "x", "old") == page
    with pytest.raises(ValueError, match="no block 'z'"):
        table.fill_block(page, "z", "")


def test_the_page_has_a_block_for_every_kind():
    page = table.PAGE.read_text(encoding="utf-8")
    for kind in table.KINDS:
        assert table.fill_block(page, kind, "x") != page


def test_other_results_are_a_text_and_their_columns():
    result = {
        "kind": "decode",
        "text": "said",
        "columns": ["n", "s"],
        "records": [{"n": 1000, "s": 0.123456}, {"n": 2}],
    }
    assert table.format_result(result) == {
        "decode": "said\n\n| n | s |\n| --- | --- |\n| 1,000 | 0.123 |\n| 2 |  |"
    }
