"""`ftcli compare` reads runs' files only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ftcli.cli.app import app
from ftcli.core.errors import UserError
from ftcli.evaluation.compare import compare


def make(folder: Path, lr: float, bleu: float, later: float | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed: 1\nrun: {{name: {folder.name}}}\noptimizer: {{lr: {lr}, betas: [0.9, 0.95]}}\n"
        f"method: {{requires: {{model.dtype: [{lr}]}}}}\n"
    )
    (folder / "result.json").write_text(
        json.dumps({"status": "finished", "tok_s": 5000.0, "metrics": {"eval.bleu": bleu}})
    )
    if later is not None:
        (folder / "eval").mkdir()
        kept = {"split": "validation", "checkpoint": "best", "scores": {"bleu": later}}
        (folder / "eval" / "generation.json").write_text(json.dumps(kept))
    return folder


def test_scores_and_costs_stand_side_by_side_and_only_differing_keys_are_kept(tmp_path):
    runs = [make(tmp_path / "a", 1e-3, 40.0), make(tmp_path / "b", 2e-3, 41.0, later=39.0)]
    comparison = compare(runs)
    assert comparison.scores == {"bleu": [40.0, 41.0], "validation.bleu @ best": [None, 39.0]}
    assert comparison.costs == {"status": ["finished"] * 2, "tok_s": [5000.0, 5000.0]}
    assert comparison.config == {"optimizer.lr": [1e-3, 2e-3]}


def test_the_verb_prints_a_table_or_json(tmp_path):
    runs = [str(make(tmp_path / name, lr, 40.0)) for name, lr in (("a", 1e-3), ("b", 2e-3))]
    printed = CliRunner().invoke(app, ["compare", *runs])
    assert printed.exit_code == 0 and "optimizer.lr" in printed.output
    assert printed.output.splitlines()[0].split() == ["a", "b"]
    as_json = CliRunner().invoke(app, ["compare", *runs, "--json"])
    assert json.loads(as_json.output)["config"] == {"optimizer.lr": [1e-3, 2e-3]}


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        compare([tmp_path])


def test_a_real_run_beside_itself_differs_in_nothing(trained_run):
    comparison = compare([trained_run, trained_run])
    assert comparison.config == {} and comparison.costs["status"] == ["finished"] * 2
    assert comparison.scores["loss"][0] == comparison.scores["loss"][1] > 0
    assert {"bleu", "slot_error"} <= comparison.scores.keys()
    assert comparison.costs["trainable_parameters"] == [149504] * 2
