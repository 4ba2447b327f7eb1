"""`ftcli eval` judges a run by its own data and keeps the scores in its folder."""

from __future__ import annotations

import json
import shutil

import pytest

from ftcli.cli.app import run
from ftcli.core.errors import UserError


@pytest.fixture
def folder(trained_run, tmp_path):
    """A copy, since judging writes into the run."""
    return shutil.copytree(trained_run, tmp_path / "run", symlinks=True)


def test_loss_is_the_one_training_ended_with_and_is_kept(folder, capsys):
    assert run(["eval", str(folder), "--tasks", "loss", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["loss"]
    result = json.loads((folder / "result.json").read_text())
    assert scores["loss"] == result["metrics"]["eval.loss"]
    kept = json.loads((folder / "eval" / "loss.json").read_text())
    assert kept["scores"] == scores and kept["split"] == "validation" and kept["step"] == 3


def test_another_split_has_a_file_and_samples_of_its_own(folder, capsys):
    before = (folder / "samples" / "3-generation.jsonl").read_text()
    words = ["eval", str(folder), "--tasks", "generation", "--split", "validation", "--json"]
    assert run(words) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["generation-validation"]
    assert (folder / "eval" / "generation-validation.json").exists()
    assert (folder / "samples" / "3-generation-validation.jsonl").exists()
    assert (folder / "samples" / "3-generation.jsonl").read_text() == before


def test_a_table_for_people(folder, capsys):
    assert run(["eval", str(folder), "--tasks", "loss"]) == 0
    out = capsys.readouterr().out
    assert "perplexity" in out
    assert f"scores  {folder}/eval/loss.json" in out.replace("\n", "")


def test_a_bare_model_is_judged_by_the_data_of_a_job(folder, trained_run, tmp_path, capsys):
    model = "ftcli/assets/models/llama_mini"
    assert run(["eval", model]) == 2
    assert "--config" in capsys.readouterr().err
    job = str(trained_run / "config.yaml")
    assert run(["eval", model, "--config", job, "--tasks", "loss", "--json"]) == 0
    before = json.loads((folder / "result.json").read_text())["metrics_before"]
    assert json.loads(capsys.readouterr().out)["loss"]["loss"] == pytest.approx(
        before["eval.loss"], rel=1e-4
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "los"], "los"),
        (["--tasks", "loss", "--split", "vlidation"], "vlidation"),
        (["--checkpoint", "step-000009"], "step-000003"),
    ],
)
def test_what_does_not_exist_is_named(folder, capsys, words, said):
    assert run(["eval", str(folder), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_is_neither(tmp_path, capsys):
    assert run(["eval", str(tmp_path)]) == 2
    assert "neither a run" in capsys.readouterr().err


@pytest.mark.parametrize("tasks", [[], ["--tasks", "arc_easy"]])
def test_a_mistyped_run_is_no_model_of_the_hub(ftcli, work, tasks):
    (work / "runs/job/2026-01-01").mkdir(parents=True)
    (work / "runs/job/2026-01-01/config.yaml").touch()
    for path, near in (
        ("runs/nope", ""),
        ("runs/job/2026-01-02", " Did you mean runs/job/2026-01-01?"),
        ("nope", " A model on the hub is written owner/name."),
    ):
        ended = ftcli("eval", path, *tasks)
        assert ended.status == 2
        assert ended.err.splitlines() == [f"{path} does not exist.{near}", "→ ftcli ls runs"]


def test_owner_and_name_are_left_to_the_hub(work):
    from ftcli.jobs.evaluate import refuse_missing_path

    left = ["meta-llama/Llama-3.1-8B", "asset:llama_mini", "ftcli/llama_mini", str(work)]
    refused = []
    for path in [*left, "runs/nope"]:
        try:
            refuse_missing_path(path)
        except UserError:
            refused.append(path)
    assert refused == ["runs/nope"]
