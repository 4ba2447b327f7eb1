"""The report of a reproduction: its tables, its pictures, and ranks that do not claim too much."""

from __future__ import annotations

import pytest

from ftcli.reproduce.figures import build_table, rank_variants
from ftcli.reproduce.plots import band
from ftcli.reproduce.report import write_report


def test_report_in_both_forms_with_pictures(reproduce, pretended):
    reproduction = reproduce(
        ("measure: bits_per_parameter", "note: as stored, measure: bits_per_parameter")
    )
    path = write_report(reproduction)
    text, html = path.read_text(), path.with_suffix(".html").read_text()
    assert (
        "| 2 | as good as 16-bit LoRA | statistical, central | – | 0.02067 [" in text
        and "1: as stored" in text
    )
    assert "| 1 | few bits | exact | 4.127 | 4.21, at most 4.5 | holds | exact |" in text
    names = {file.stem for file in (path.parent / "plots").glob("*.png")}
    assert names == {"training_loss", "held_out_loss", "quality_size", "memory", "time"}
    assert all(f"plots/{name}.png" in text for name in names)
    assert html.count("data:image/png;base64,") == 5 and "<td class=holds>holds</td>" in html


def test_variants_stand_side_by_side_the_best_first(reproduce, pretended):
    table = build_table(reproduce().experiment)
    assert list(table) == ["lora16", "tiny", "fp4"]
    assert [v["rank"] for v in table.values()] == [1, 2, 3]
    assert table["fp4"]["eval.loss"] == pytest.approx(2.2 + 0.3)
    assert "bits_per_parameter" not in table["lora16"]


def test_variants_that_seeds_do_not_tell_apart_share_a_rank():
    assert rank_variants([[1.0, 1.2], [1.1, 1.11], [2.0, 2.2]]) == [1, 1, 3]
    assert rank_variants([[1.0], [5.0]]) == [1, 1], "one seed tells nothing apart"
    assert rank_variants([[1.0, 2.0], [1.1, 2.1], [1.2, 2.2]]) == [1, 2, 3]


def test_a_band_covers_the_steps_that_all_seeds_have():
    steps, (mean, low, high) = band([{0: 4.0, 1: 2.0, 2: 1.0}, {0: 4.0, 1: 3.0}])
    assert steps == [0, 1] and (mean, low, high) == ([4.0, 2.5], [4.0, 2.0], [4.0, 3.0])
