"""`ftcli reproduce` with real runs of three steps, and the recipes in `ftcli ls`."""

from __future__ import annotations

import json

import pytest
import yaml

RECIPE = """# Two adapters of different rank
defaults: [qlora_mini, override eval: none, _self_]
data: {limit: 24, validation: null, test: null}
method: {r: 2}
trainer: {max_steps: 2, batch_size: 2, log_every: 1, eval_every: null}
paper: {title: Small and large, arxiv: "2000.00001", year: 2020}
baselines: {large: [method.r=4]}
claims:
  - {say: half the size, measure: trainable_parameters, kind: exact, central: true, of: large, compare: ratio, equals: 0.5}
  - {say: quick, measure: seconds, kind: trivial, at_most: 1000}
"""


@pytest.fixture
def recipe(work):
    (work / "small.yaml").write_text(RECIPE)
    return work / "small.yaml"


def test_runs_are_made_judged_and_found_again(ftcli, recipe, work):
    first = ftcli("reproduce", "small.yaml", "--seeds", "1")
    assert first.status == 0, first.err
    assert "run 1 of 2: small, seed 0" in first.err and "run 2 of 2: large" in first.err
    assert (
        "0.5, ratio to large equals 0.5" in first.out
        and "exact 1/1, trivial 0/1; 1 inconclusive" in first.out
    )
    folder = work / "runs" / "reproduce" / "small"
    runs = sorted(f for f in folder.iterdir() if (f / "result.json").exists())
    assert len(runs) == 2 and (folder / "report.html").exists() and (folder / "report.md").exists()
    stamps = [(run / "result.json").stat().st_mtime_ns for run in runs]
    again = ftcli("reproduce", "small.yaml", "--seeds", "1", "--json")
    assert "run 1" not in again.err
    records = list(json.loads(again.out)["verdicts"].values())
    assert [record["verdict"] for record in records] == ["holds", "inconclusive"]
    assert [(run / "result.json").stat().st_mtime_ns for run in runs] == stamps
    recipe.write_text(RECIPE.replace("equals: 0.5", "equals: 0.4"))
    false = ftcli("reproduce", "small.yaml", "--seeds", "1")
    assert false.status == 1 and "1 fails" in false.out


def test_mistakes(ftcli, recipe):
    stored = ftcli("reproduce", "small.yaml", "seed=1", "--store")
    assert stored.status == 2 and "not the recipe's" in stored.err
    assert "fewer seeds" in ftcli("reproduce", "small.yaml", "--seeds", "1", "--store").err
    assert "has no search of settings" in ftcli("reproduce", "small.yaml", "--tune").err
    assert "no paper is given." in ftcli("reproduce").err
    assert "Closest" in ftcli("reproduce", "qlorra").err
    recipe.write_text(RECIPE.replace("of: large", "of: lagre"))
    wrong = ftcli("check", "small.yaml")
    assert wrong.status == 2 and "small.yaml:9" in wrong.err and "Did you mean large?" in wrong.err


@pytest.mark.slow
def test_a_real_search_from_the_command_line(ftcli, work):
    """Two trials of a step each, then judged with what they chose."""
    (work / "real.yaml").write_text("""# A recipe that searches
defaults: [qlora_mini, override eval: loss, _self_]
data: {limit: 48}
method: {r: 2}
eval: {loss: {split: test, limit: 4}}
trainer: {max_steps: 1, batch_size: 2, log_every: 1, eval_every: null}
paper: {title: Ranks, arxiv: "2000.00001", year: 2020}
tune: {grid: {optimizer.lr: [1.0e-4, 1.0e-1]}, changes: [eval.loss.split=validation, data.validation=0.2]}
claims:
  - {say: some, measure: trainable_parameters, kind: exact, central: true, greater_than: 0}
""")
    refused = ftcli("reproduce", "real.yaml", "--seeds", "1")
    assert refused.status == 2 and "reproduce real --tune" in refused.err
    search = ftcli("reproduce", "real.yaml", "--tune")
    assert search.status == 0, search.err
    assert "run 2 of 2: real-1, seed 100" in search.err and "of 2 trials" in search.out
    stored = yaml.safe_load((work / "real.tuned.yaml").read_text())
    trials = stored["variants"]["real"]["trials"]
    assert trials[0]["eval.loss"] != trials[1]["eval.loss"]
    least = min(trials, key=lambda trial: trial["eval.loss"])
    assert stored["variants"]["real"]["chosen"] == least["set"]
    judged = ftcli("reproduce", "real.yaml", "--seeds", "1")
    assert judged.status == 0, judged.err
    configs = [p.read_text() for p in (work / "runs/reproduce/real").glob("*/config.yaml")]
    rate = least["set"][0].partition("=")[2]
    assert any(float(line.split(": ")[1]) == float(rate) for text in configs
               for line in text.splitlines() if line.strip().startswith("lr: "))  # fmt: skip


def test_recipes_are_filtered(ftcli):
    def names(*words: str) -> list[str]:
        entries = ftcli("ls", "recipes", "--json", *words)
        return [entry["name"] for entry in json.loads(entries.out)]

    assert "qlora" in names()
    assert "bases/llama_mini" in names("--verdict", "none")
    assert names("--needs", ">1000GB") == []
    assert "--verdict filters recipes" in ftcli("ls", "methods", "--verdict", "fails").err
    assert "no bound on memory" in ftcli("ls", "recipes", "--needs", "little").err
    assert "no verdict" in ftcli("ls", "recipes", "--verdict", "maybe").err
