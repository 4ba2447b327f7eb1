"""Exponents of known powers, plots that say them, and points that ask for what their axis says."""

from __future__ import annotations

import json

import growth
import pytest
import table


def make_records(power: float, rise: float = 10.0):
    return [
        {"axis": "tokens", "value": n, "step_s": 1e-6 * n**power, "rise_mb": rise * n, "peak_mb": 500.0}
        for n in (256, 512, 1024)
    ]  # fmt: skip


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_its_power(power):
    found = growth.fit_axis(make_records(power))
    assert found == {
        "step_s": pytest.approx(power),
        "rise_mb": pytest.approx(1),
        "peak_mb": pytest.approx(0),
    }


def test_memory_that_did_not_rise_has_no_exponent():
    assert growth.fit_axis(make_records(1.0, rise=0.0))["rise_mb"] is None


def test_a_plot_is_drawn_and_says_the_exponent(tmp_path):
    growth.plot("tokens", make_records(2.0), tmp_path / "new/tokens.svg")
    text = (tmp_path / "new/tokens.svg").read_text()
    assert "exponent 2.00" in text and "tokens in a row" in text


def test_the_result_shows_points_exponents_and_the_plot(tmp_path):
    result = growth.describe(make_records(2.0), 3, tmp_path / "growth")
    block = table.format_result(json.loads(json.dumps(result)))["growth"]
    assert "exponents of time 2.00, rise while training 1.00, peak of the process 0.00" in block
    assert "](growth/tokens.svg)" in block
    assert "| tokens | 1,024 | 1.05 |" in block


def test_long_rows_have_the_length_that_was_asked_for(tmp_path):
    from tokenizers import Tokenizer

    growth.write_long_rows(tmp_path / "rows.jsonl", 512, 3)
    rows = [
        json.loads(line)["messages"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()
    ]
    tokenizer = Tokenizer.from_file(str(growth.workload.TOKENIZER / "tokenizer.json"))
    lengths = [len(tokenizer.encode(row[1]["content"]).ids) for row in rows]
    assert len(rows) == 3 and all(480 <= n <= 512 for n in lengths)
    assert rows[0] != rows[1]


def test_adapters_are_counted_by_their_linear_layers():
    assert [12 * n for n in growth.TARGETS] == growth.POINTS["adapters"]
    assert all(len(targets) == n for n, targets in growth.TARGETS.items())


def test_a_failed_point_is_named(monkeypatch):
    monkeypatch.setitem(growth.MEASURES, "rows", lambda point, folder: {"error": "no room"})
    with pytest.raises(RuntimeError, match="rows 5: no room"):
        list(growth.measure("rows", [5], 1))
