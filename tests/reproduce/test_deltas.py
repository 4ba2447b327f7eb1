"""Measures of weight arithmetic find the runs beside one, and hold what is exact on real runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ftcli.reproduce.deltas import analyse_run, find_partner_run, find_sibling_runs, read_name
from ftcli.reproduce.measure import MetricUnavailable, read_metric


def placed(run: Path, folder: Path, name: str) -> Path:
    """A copy of a run under the name that a recipe gives it."""
    target = folder / name
    shutil.copytree(run, target, symlinks=True)
    config = target / "config.yaml"
    lines = config.read_text().splitlines()
    lines = [f"  name: {name}" if line.startswith("  name: ") else line for line in lines]
    config.write_text("\n".join(lines) + "\n")
    return target


@pytest.fixture(scope="module")
def family(full_run, other_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    pairs = (("low-0", full_run), ("high-0", other_run), ("scratch-0", other_run))
    runs = [placed(run, folder, name) for name, run in (*pairs, ("low-1", other_run))]
    (folder / "runs.json").write_text(json.dumps({run.name: run.name for run in runs}))
    return runs


def test_runs_of_a_recipe_stand_beside_each_other(family):
    assert [read_name(run) for run in family][:2] == [("low", "0"), ("high", "0")]
    assert (
        find_partner_run(family[0], "high") == family[1] and len(find_sibling_runs(family[0])) == 4
    )
    with pytest.raises(MetricUnavailable, match="no finished run of other"):
        find_partner_run(family[0], "other")


def test_a_run_of_an_earlier_state_of_the_recipe_does_not_stand_beside(family, other_run):
    placed(other_run, family[0].parent, "older-0")  # finished, newest, and not in the index
    assert len(find_sibling_runs(family[0])) == 4


def test_a_soup_is_of_one_seed_and_one_start(family):
    assert read_metric("soup_pot", family[0]) == 2
    assert read_metric("soup_held_out_gain", family[0]) <= 1e-6


def test_what_is_exact_holds(full_run, lora_run, tmp_path):
    full, lora = (placed(run, tmp_path, name) for run, name in ((full_run, "a"), (lora_run, "b")))
    assert read_metric("lines_limits_error", full) <= 1e-12
    assert read_metric("compeft_faults", lora) == 0
    assert read_metric("compeft_times_smaller", lora) > 15
    assert read_metric("compeft_over_golomb", lora) == pytest.approx(
        1, abs=0.04
    )  # 3 steps: B is nearly 0
    assert read_metric("compeft_qlora_7b_mb", lora) == pytest.approx(6.78, abs=0.01)


def test_a_run_as_it_is_has_the_loss_it_was_judged_with(full_run):
    from ftcli.core.run_dir import RunDir

    analysis = analyse_run(full_run)
    logged_loss = RunDir(full_run).result()["metrics"]["eval.loss"]
    assert analysis.loss(analysis.delta, "validation") == pytest.approx(logged_loss, abs=1e-5)
    assert (
        analysis.control_loss(analysis.delta)
        >= analysis.control_loss(analysis.delta.scale(0.0)) - 0.05
    )
