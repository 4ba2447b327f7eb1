"""The search of settings: as many trials for all, on other rows, with another seed; then judged with."""

from __future__ import annotations

import pytest
import yaml

from ftcli.config import recipe_reading as reading
from ftcli.core.errors import UserError
from ftcli.reproduce import papers, tuning, verdicts
from ftcli.reproduce.report import write_report
from ftcli.reproduce.reproduction import Reproduction

TUNE = """tune:
  grid: {optimizer.lr: [1.0e-3, 5.0e-3]}
  own: {fp4: {method.r: [2, 4]}}
  fixed: {lora16: it is what others are compared with}
  changes: [eval.loss.split=validation]
claims:
"""


@pytest.fixture
def searching(recipe_file):
    """The tiny recipe with a search."""
    text = recipe_file.read_text().replace("claims:\n", TUNE, 1)
    recipe_file.write_text(text.replace("\npaper:", "\neval: {loss: {split: test}}\npaper:", 1))
    return reading.find_recipe(str(recipe_file))


@pytest.fixture
def scored(pretended, monkeypatch):
    """Losses of made-up runs follow the learning rate; the higher rate diverges for FP4's rank 4."""
    from ftcli.jobs import trial

    def complete(composed, path, quiet=True):
        config = composed.config
        if config["model"]["quantization"] == "fp4" and config["method"].get("r") == 4:
            raise UserError("the loss is not finite.")
        rate = config["optimizer"]["lr"]
        pretended.losses = dict.fromkeys(("nf4", "none", "fp4"), 2.0 - 100 * rate)
        return pretended(composed, path, quiet)

    monkeypatch.setattr(trial, "complete_job", complete)


def test_every_variant_has_as_many_trials_with_a_seed_that_judges_nothing(searching, scored):
    search = tuning.Search(searching)
    trials = [(trial.variant, trial.seed) for trial in search.experiment.trials]
    assert trials == [(f"{v}-{i}", 100) for v in ("tiny", "fp4") for i in (0, 1)]
    searched = search.run(lambda step: None)
    assert searched["variants"]["tiny"]["chosen"] == ["optimizer.lr=0.005"]
    scores = [trial["eval.loss"] for trial in searched["variants"]["fp4"]["trials"]]
    assert scores[0] is not None and scores[1] is None, "what diverged has no score"
    assert searched["variants"]["fp4"]["chosen"] == ["method.r=2"]


def test_judging_takes_what_was_chosen_and_waits_for_the_search(searching, scored):
    with pytest.raises(UserError, match="not been searched") as caught:
        Reproduction(searching).run(lambda step: None)
    assert caught.value.fix == "ftcli reproduce tiny --tune"
    tuning.store_search(searching, tuning.Search(searching).run(lambda step: None))
    assert yaml.safe_load(tuning.path_of(searching).read_text())["by"] == "eval.loss"
    reproduction = Reproduction(searching)
    reproduction.run(lambda step: None)
    rates = {
        t.variant: t.composed.config["optimizer"]["lr"] for t in reproduction.experiment.trials
    }
    assert rates["tiny"] == 0.005 and rates["lora16"] != 0.005
    text = write_report(reproduction).read_text()
    assert "| tiny | optimizer.lr=0.005 | " in text and "| chosen |" in text
    assert "lora16 was not searched: it is what others" in text
    assert "2 trials a variant, 20" in "\n".join(papers._render_recipe(searching))


def test_a_search_of_another_state_of_the_recipe_is_not_taken(searching, scored, recipe_file):
    tuning.store_search(searching, tuning.Search(searching).run(lambda step: None))
    assert tuning.find_missing(searching) == []
    recipe_file.write_text(recipe_file.read_text().replace("5.0e-3]", "4.0e-3]"))
    assert tuning.find_missing(reading.find_recipe(str(recipe_file))) == ["tiny"]
    recipe_file.write_text(recipe_file.read_text().replace("max_steps: 3", "max_steps: 4"))
    assert tuning.find_missing(reading.find_recipe(str(recipe_file))) == ["tiny", "fp4"]


def test_rows_that_judge_do_not_choose(recipe_file, searching):
    shares = "data.validation=0.25, eval.loss.split=test"  # another share is no other split
    text = recipe_file.read_text().replace("eval.loss.split=validation", shares)
    recipe_file.write_text(text)
    with pytest.raises(UserError, match="on the rows that judge"):
        tuning.Search(reading.find_recipe(str(recipe_file)))


def test_settings_not_searched_alike_are_said(recipe_file):
    page = "\n".join(papers._render_recipe(reading.find_recipe(str(recipe_file))))
    assert "Settings not searched alike." in page


def test_verdicts_of_another_scale_do_not_depend_on_the_search(
    recipe_file, searching, scored, committed
):
    claim = "  - {say: small, measure: plan.trainable_parameters, kind: exact, at_least: 1, scale: paper}\n"
    recipe_file.write_text(recipe_file.read_text() + claim + "scales: {paper: [method.r=8]}\n")
    recipe = reading.find_recipe(str(recipe_file))
    tuning.store_search(recipe, tuning.Search(recipe).run(lambda step: None))
    planned = Reproduction(recipe, scale="paper")
    planned.run(lambda step: None)
    verdicts.store_verdicts(planned)
    assert list(papers.find_stale(recipe)) == []


def test_the_real_scale_has_its_own_search_runs_and_three_seeds(recipe_file, searching, scored):
    claim = "  - {say: as good, measure: eval.loss, kind: statistical, of: fp4, within: 9, scale: real}\n"
    search = "  scales: {real: {grid: {optimizer.lr: [3.0e-3, 4.0e-3]}, changes: [eval.loss.split=validation]}}\n"
    text = recipe_file.read_text().replace("claims:\n", search + "claims:\n", 1)
    text = text.replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3, 4]")
    recipe_file.write_text(text + claim + "scales: {real: [trainer.max_steps=2]}\n")
    recipe = reading.find_recipe(str(recipe_file))
    tuning.store_search(recipe, tuning.Search(recipe).run(lambda step: None))
    assert tuning.find_missing(recipe, "real") == ["tiny", "fp4"], "lora16 is in no claim there"
    with pytest.raises(UserError) as caught:
        Reproduction(recipe, scale="real").run(lambda step: None)
    assert caught.value.fix == "ftcli reproduce tiny --tune --scale real"
    tuning.store_search(recipe, tuning.Search(recipe, scale="real").run(lambda step: None), "real")
    assert tuning.find_missing(recipe) == [] == tuning.find_missing(recipe, "real")
    reproduction = Reproduction(recipe, scale="real")
    reproduction.run(lambda step: None)
    trials = reproduction.experiment.trials
    assert {(t.variant, t.seed) for t in trials} == {
        (v, s) for v in ("tiny", "fp4") for s in range(3)
    }
    assert {t.composed.config["trainer"]["max_steps"] for t in trials} == {2}
    assert "Settings at the real scale: 2 trials" in "\n".join(papers._render_recipe(recipe))


REAL_ALONE = """tune:
  scales: {real: {grid: {optimizer.lr: [3.0e-3, 4.0e-3]}, changes: [eval.loss.split=validation]}}
claims:
  - {say: close, measure: eval.loss, kind: statistical, of: fp4, within: 9, scale: real}
"""


@pytest.fixture
def real_alone(recipe_file):
    """The tiny recipe with a real scale whose search is its only one, and another rank for FP4 there."""
    text = recipe_file.read_text().replace("claims:\n", REAL_ALONE, 1)
    text += "eval: {loss: {split: test}}\nscales: {real: [trainer.max_steps=2]}\n"
    recipe_file.write_text(text + "scaled_variants: {real: {fp4: [method.r=3]}}\n")
    return reading.find_recipe(str(recipe_file))


def test_a_search_at_the_real_scale_alone_asks_for_none_at_the_small_one(real_alone, scored):
    assert real_alone.get_tune() is None and tuning.find_missing(real_alone) == []
    assert tuning.find_missing(real_alone, "real") == ["tiny", "fp4"]
    with pytest.raises(UserError, match="no search of settings at the small scale"):
        tuning.Search(real_alone)
    Reproduction(real_alone).run(lambda step: None)  # judged without a search, as before


def test_a_variant_has_its_own_size_at_a_scale(real_alone):
    ranks = {t.variant: t.composed.config["method"]["r"] for t in tuning.Search(real_alone, scale="real").experiment.trials}  # fmt: skip
    assert ranks["fp4-0"] == ranks["fp4-1"] == 3 != ranks["tiny-0"]
    assert real_alone.overrides("fp4") == ["model.quantization=fp4"], "the small scale has it not"


def test_a_search_at_an_unknown_scale_is_a_mistake(recipe_file, searching):
    search = "  scales: {huge: {grid: {optimizer.lr: [3.0e-3]}, changes: []}}\n"
    recipe_file.write_text(recipe_file.read_text().replace("claims:\n", search + "claims:\n", 1))
    with pytest.raises(UserError, match="scales has no huge"):
        reading.find_recipe(str(recipe_file))
