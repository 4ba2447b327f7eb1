"""Medians of builds, their ratio, and how far peak memory grew."""

from __future__ import annotations

import argparse

import main_job
import pytest
import table


def figures(speed: float, peaks: tuple[float, float]) -> dict:
    return {
        "tok_s": speed,
        "step_s": 1.0,
        "first_step_s": 2.0,
        "peak_mb": peaks[1],
        "peak_mb_at": {"70": peaks[0], "600": peaks[1]},
    }


def test_builds_are_compared_by_their_medians():
    now = [figures(s, (1000.0, 1000.0 + s)) for s in (300, 600, 900)]
    before = [figures(s, (1000.0, 1000.0)) for s in (300, 290, 310)]
    first, second = main_job.summarise({"now": now, "before": before})
    assert (first["tok_s"], first["to_before"], first["peak_growth_mb"]) == (600, 2.0, 600)
    assert (second["to_before"], second["peak_growth_mb"]) == (1.0, 0.0)


def test_one_build_alone_has_no_ratio():
    assert "to_before" not in main_job.summarise({"now": [figures(1.0, (1, 2))]})[0]


def test_growth_needs_the_early_mark():
    short = figures(1.0, (1, 2)) | {"peak_mb_at": {"5": 900.0}}
    assert "peak_growth_mb" not in main_job.summarise({"now": [short]})[0]


@pytest.mark.parametrize("steps, kind", [(70, "main_job"), (71, "main_job_memory")])
def test_a_run_beyond_the_early_mark_is_about_memory(steps, kind):
    options = argparse.Namespace(steps=steps, rows_a_step=16, rounds=1)
    found = main_job.describe(options, {"step_tokens": 9, "ceiling_tok_s": 1.0, "gflop_s": 1.0})
    assert found["kind"] == kind in table.KINDS
    assert ("peak_growth_mb" in found["columns"]) == (kind == "main_job_memory")


def test_the_task_is_the_main_job_of_the_checkout(tmp_path):
    from ftcli.config import compose, validate_and_convert

    task = main_job.build_main_task(90, 16, str(tmp_path), tmp_path)
    composed = compose(task["job"], task["overrides"])
    validate_and_convert(composed)
    assert composed.config["trainer"]["batch_size"] == 16
    assert task["marks"] == [main_job.EARLY, 90] and task["build"] == str(tmp_path)
