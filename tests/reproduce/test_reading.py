"""Mistakes in a recipe's own keys: each with file and line, all of them at once."""

from __future__ import annotations

import pytest

from ftcli.config import compose, validate
from ftcli.errors import Problems, UserError
from ftcli.reproduce import reading
from ftcli.reproduce.recipe import joined


def line_of(path, text: str) -> int:
    return 1 + next(i for i, line in enumerate(path.read_text().splitlines()) if text in line)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("of: lora16", "of: lora61", "lora61 is no baseline. Did you mean lora16?"),
        ("at_most: 4.5", "at_mots: 4.5", "Did you mean at_most?"),
        ("at_most: 4.5", "at_most: four", "is no number"),
        ("at_most: 4.5", "at_most: 4.5, at_least: 4", "at_least and at_most"),
        ("at_most: 4.5, ", "", "no relation"),
        ("of: lora16, within", "within", "within what?"),
        ("measure: bits_per_parameter", "measure: bits_a_parameter", "Did you mean bits_per"),
        ("at_most: 4.5", "equals: 4, scale: paper", "scales has no paper"),
        ("at_most: 4.5", "at_most: 4.5, tolerance: 1", "tolerance belongs to equals"),
        ("at_most: 4.5", "at_most: 4.5, given: [seed=1]", "given changes what is planned"),
        ("at_most: 4.5", "ranks: [fp4]", "two variants or more"),
        ('"2000.00001"', "2000.00001", "put it in quotes"),
        (", year: 2020", "", "year is not given"),
        ("fp4: [model", "tiny: [model", "the name of the job itself"),
    ],
)
def test_a_mistake_is_shown_at_its_line(recipe_file, old, new, said):
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace(old, new))
    line = line_of(recipe_file, new if new else {", year: 2020": "paper:"}.get(old, "few bits"))
    with pytest.raises(UserError) as caught:
        reading.find(str(recipe_file))
    error = caught.value
    errors = error.problems if isinstance(error, Problems) else [error]
    assert any(said in e.what and e.where.endswith(f"tiny.yaml:{line}") for e in errors), errors


def test_all_mistakes_come_together_and_check_finds_them_too(recipe_file):
    text = recipe_file.read_text().replace("of: lora16", "of: a").replace("of: fp4", "of: b")
    recipe_file.write_text(text)
    with pytest.raises(Problems) as caught:
        validate(compose(recipe_file))
    assert len(caught.value.problems) == 2


def test_what_is_claimed_is_no_part_of_the_configuration(recipe_file):
    composed = compose(recipe_file)
    validate(composed)
    assert not {"paper", "claims", "baselines"} & set(composed.config)


def test_a_job_without_claims_is_no_recipe():
    with pytest.raises(UserError, match="without claims"):
        reading.find("qlora_llama")
    assert reading.find("qlora").name == reading.find("quantised/qlora").name == "qlora"


def test_a_later_option_replaces_earlier_keys_of_its_group():
    given = joined(["method.r=8", "optimizer.lr=1"], ["method=full"], ["method.train=[a]"])
    assert given == ["optimizer.lr=1", "method=full", "method.train=[a]"]
