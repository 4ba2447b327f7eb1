"""Ratios of preparation are ftcli's speed over a way's, and a way's processor time over ftcli's."""

from __future__ import annotations

import data
import pytest


def test_ratios_are_of_speed_and_of_processor_time():
    own = {"rows": 100, "rows_s": 50.0, "cpu_s": 1.0}
    slow = {"rows": 100, "rows_s": 20.0, "cpu_s": 4.0}
    found = data.compare_with_ftcli(slow, own)
    assert (found["ratio"], found["cpu_ratio"]) == (2.5, 4.0)
    assert found["cpu_us"] == pytest.approx(40_000)


def test_every_way_makes_the_same_tokens():
    own, batched = data.compare(50, "jsonl", ("ftcli", "datasets"))
    assert own["tokens"] == batched["tokens"] > 50 * 10
    assert own["again_s"] > 0 and own["rise_mb"] >= 0
