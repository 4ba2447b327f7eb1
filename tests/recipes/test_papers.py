"""Every recipe of a paper: its variants are sound jobs, at its small scale and as far as planned."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.config.overrides import join_overrides
from ftcli.config.recipe import REAL, SMALL
from ftcli.reproduce import tuning
from ftcli.reproduce.papers import list_recipes
from ftcli.reproduce.reproduction import Reproduction

RECIPES = {recipe.name: recipe for recipe in list_recipes()}
CASES = [(name, v) for name, recipe in RECIPES.items() for v in recipe.variants()]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_variant_is_a_sound_job(name, variant):
    recipe = RECIPES[name]
    composed = compose(recipe.path, recipe.overrides(variant))
    validate_and_convert(composed)
    assert recipe.claims and composed.config["trainer"]["max_steps"] <= 500


#: Recipes that train at the real scale; others compare untrained models there.
TRAINED = {name: r for name, r in RECIPES.items() if REAL in r.scales and r.get_tune(REAL)}
REAL_CASES = [(name, v) for name, r in TRAINED.items() for v in r.list_searched(REAL)]


@pytest.mark.parametrize(("name", "variant"), REAL_CASES)
def test_a_variant_at_the_real_scale_is_a_sound_job(name, variant):
    """It is SmolLM2, trained for few steps, searched by other rows than those that judge."""
    recipe = RECIPES[name]
    judged = recipe.overrides(variant, REAL)
    tune = recipe.get_tune(REAL)
    composed = compose(
        recipe.path, join_overrides(judged, tune.list_points(variant)[0], tune.changes)
    )
    validate_and_convert(composed)
    assert composed.config["model"]["architecture"] == "smollm2_135m"
    assert composed.config["trainer"]["max_steps"] <= 60
    assert composed.config["eval"]["loss"]["split"] == "validation"
    assert compose(recipe.path, judged).config["eval"]["loss"]["split"] == "test"


def test_ten_papers_are_judged_on_a_pretrained_model_with_as_many_trials_a_variant():
    assert len(TRAINED) >= 10
    for recipe in TRAINED.values():
        counts = {len(recipe.get_tune(REAL).list_points(v)) for v in recipe.list_searched(REAL)}
        assert len(counts) == 1 and counts.pop() in (2, 3, 4)
        assert any(c.central for c in recipe.claims if c.scale == REAL)


def test_at_the_real_scale_only_untrained_models_are_compared_without_a_search():
    for name in RECIPES.keys() - TRAINED.keys():
        claims = [c for c in RECIPES[name].claims if c.scale == REAL and not c.needs]
        assert all(c.measure.startswith("before.") for c in claims), name


@pytest.mark.slow
def test_variants_of_a_recipe_differ():
    for recipe in RECIPES.values():
        configs = [compose(recipe.path, recipe.overrides(v)).config for v in recipe.variants()]
        assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


@pytest.mark.parametrize("name", RECIPES)
def test_the_scale_of_the_paper_is_a_sound_job(name):
    recipe = RECIPES[name]
    for scale in recipe.scales:
        validate_and_convert(compose(recipe.path, recipe.overrides(recipe.own, scale)))
    assert any(claim.scale != SMALL for claim in recipe.claims)


def test_figures_of_the_papers_models_hold_without_weights():
    """What a trace of a step needs is left to the slow test: it takes ten seconds."""
    reproduction = Reproduction(RECIPES["qlora"], scale="paper")
    counted = [c for c in reproduction.claims if not (c.needs or "memory" in c.measure)]
    assert [reproduction._judge_claim(c).verdict for c in counted] == ["holds"] * 7


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.get_tune()])
def test_every_trial_of_a_search_is_a_sound_job_on_rows_that_judge_nothing(name):
    search = tuning.Search(RECIPES[name])
    counts = {len(points) for points in search.points.values() if points}
    assert len(counts) == 1 and counts.pop() >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_scale_of_the_paper_is_checked_planned_and_judged(name):
    reproduction = Reproduction(RECIPES[name], scale="paper")
    assert {f.name for f in reproduction.findings() if f.status == "fail"} <= {"memory", "disk"}
    reproduction.run(lambda step: None)
    assert {v.verdict for v in reproduction.verdicts} <= {"holds", "not measurable here"}
    assert reproduction.status == 0
