"""Mistakes in a recipe's own keys: each with file and line, all of them at once."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate_and_convert
from ftcli.config import recipe_reading as reading
from ftcli.config.overrides import join_overrides
from ftcli.core.errors import Problems, UserError


def line_of(path, text: str) -> int:
    return 1 + next(i for i, line in enumerate(path.read_text().splitlines()) if text in line)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("of: lora16", "of: lora61", "lora61 is not a baseline. Did you mean lora16?"),
        ("at_most: 4.5", "at_mots: 4.5", "Did you mean at_most?"),
        ("at_most: 4.5", "at_most: four", "is not a number"),
        ("at_most: 4.5", "at_most: 4.5, at_least: 4", "at_least and at_most"),
        ("at_most: 4.5, ", "", "no relation"),
        ("of: lora16, within", "within", "`within` compares with a baseline"),
        ("measure: bits_per_parameter", "measure: bits_a_parameter", "Did you mean bits_per"),
        ("at_most: 4.5", "equals: 4, scale: paper", "scales has no paper"),
        ("at_most: 4.5", "at_most: 4.5, tolerance: 1", "`tolerance` applies to `equals`"),
        ("at_most: 4.5", "at_most: 4.5, given: [seed=1]", "`given` changes a plan only"),
        ("at_most: 4.5", "ranks: [fp4]", "two or more variants"),
        ('"2000.00001"', "2000.00001", "put it in quotes"),
        (", year: 2020", "", "year is not given"),
        ("fp4: [model", "tiny: [model", "the name of the job itself"),
        ("kind: exact", "kind: certain", "none of: exact, statistical, trivial"),
        ("kind: exact, ", "", "kind is not given"),
    ],
)
def test_a_mistake_is_shown_at_its_line(recipe_file, old, new, said):
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace(old, new))
    line = line_of(
        recipe_file,
        new
        if new
        else {", year: 2020": "paper:", "kind: exact, ": "few bits"}.get(old, "few bits"),
    )
    with pytest.raises(UserError) as caught:
        reading.find_recipe(str(recipe_file))
    error = caught.value
    errors = error.problems if isinstance(error, Problems) else [error]
    assert any(said in e.what and e.where.endswith(f"tiny.yaml:{line}") for e in errors), errors


def test_all_mistakes_come_together_and_check_finds_them_too(recipe_file):
    text = recipe_file.read_text().replace("of: lora16", "of: a").replace("of: fp4", "of: b")
    recipe_file.write_text(text)
    with pytest.raises(Problems) as caught:
        validate_and_convert(compose(recipe_file))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("central: true, ", "", "one to 3 central claims; this one names 0"),
        ("claims:\n", "seeds: [0, 1]\nclaims:\n", "needs 3 seeds; there are 2"),
        ("claims:\n", "seeds: [0, 1, 1]\nclaims:\n", "different whole numbers"),
        ("of: fp4, less_than: 0", "of: lora16, within: 0.1", "claims 2 and 3 have the same figure"),
        (
            "claims:\n",
            "tune: {grid: {a: [1]}, changes: [], seed: 1}\nclaims:\n",
            "seed 1 is also among `seeds`",
        ),
        ("claims:\n", "tune: {grid: {}, changes: []}\nclaims:\n", "the search has no combination"),
        (
            "claims:\n",
            "tune: {grid: {a: [1]}, changes: [], own: {fp5: {a: [1]}}}\nclaims:\n",
            "fp5 is not",
        ),
        (
            "claims:\n",
            "tune: {grid: {a: [1, 2]}, changes: [], own: {fp4: {a: [1]}}}\nclaims:\n",
            "different numbers of trials: tiny 2, lora16 2, fp4 1",
        ),
        (
            "claims:\n",
            "scales: {real: []}\nscaled_variants: {real: {fp5: []}}\nclaims:\n",
            "fp5 is not a variant",
        ),
        (
            "claims:\n",
            "scaled_variants: {real: {fp4: []}}\nclaims:\n",
            "scales has no real",
        ),
        (
            "claims:\n",
            "tune: {grid: {a: [1]}, changes: [], gird: 1}\nclaims:\n",
            "Did you mean grid?",
        ),
    ],
)
def test_evidence_that_cannot_hold_is_refused(recipe_file, old, new, said):
    text = recipe_file.read_text()
    assert old in text
    recipe_file.write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        reading.find_recipe(str(recipe_file))
    error = caught.value
    errors = error.problems if isinstance(error, Problems) else [error]
    assert any(said in e.what for e in errors), [e.what for e in errors]


def test_other_words_are_the_same_claim_and_another_bound_is_not(recipe_file):
    before = reading.find_recipe(str(recipe_file)).claims[2].identity
    recipe_file.write_text(recipe_file.read_text().replace("better than FP4", "beats it"))
    assert reading.find_recipe(str(recipe_file)).claims[2].identity == before
    recipe_file.write_text(recipe_file.read_text().replace("less_than: 0", "less_than: 0.1"))
    assert reading.find_recipe(str(recipe_file)).claims[2].identity != before


def test_what_is_claimed_is_no_part_of_the_configuration(recipe_file):
    composed = compose(recipe_file)
    validate_and_convert(composed)
    assert not {"paper", "claims", "baselines"} & set(composed.config)


def test_a_job_without_claims_is_no_recipe():
    with pytest.raises(UserError, match="without claims"):
        reading.find_recipe("qlora_mini")
    assert reading.find_recipe("qlora").name == reading.find_recipe("recipes/qlora").name == "qlora"


def test_a_later_option_replaces_earlier_keys_of_its_group():
    overrides = join_overrides(
        ["method.r=8", "optimizer.lr=1"], ["method=full"], ["method.train=[a]"]
    )
    assert overrides == ["optimizer.lr=1", "method=full", "method.train=[a]"]
