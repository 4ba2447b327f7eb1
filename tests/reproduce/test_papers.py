"""docs/papers.md is what the recipes and their stored verdicts say now."""

from __future__ import annotations

from pathlib import Path

from ftcli.config import recipe_reading as reading
from ftcli.reproduce import papers

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == papers.render_page(), (
        "python -m ftcli.reproduce.papers"
    )


def test_every_recipe_and_claim_is_on_it():
    text = papers.render_page()
    for recipe in papers.list_recipes():
        assert f"## {recipe.name}\n" in text and recipe.paper.title in text
        # a bar would end the cell of the table
        assert all(claim.say.replace("|", "\\|") in text for claim in recipe.claims)


def test_one_claim_at_several_scales_is_one_row(recipe_file):
    claim = "  - {say: better than FP4, measure: eval.loss, kind: statistical, of: fp4, less_than: 0, scale: real}\n"
    scales = "scales: {real: [trainer.max_steps=2]}\n"
    recipe_file.write_text(recipe_file.read_text() + claim + scales)
    recipe = reading.find_recipe(str(recipe_file))
    page = "\n".join(papers._render_recipe(recipe))
    assert "|  | claim | kind | paper says | must be | small | real |" in page
    row = "| 3, 4 | better than FP4 | statistical | – | difference to fp4 less than 0 | not judged yet | not judged yet |"
    assert row in page
    assert (
        "| 2 | as good as 16-bit LoRA | statistical, central | – | difference to lora16 within 0.1 | not judged yet |  |"
        in page
    )
    assert papers.summarise_paper(recipe, "real") == "statistical 0/1 hold; 1 not judged yet"
    assert papers.summarise_paper(recipe, "paper") == ""


def test_stored_verdicts_are_counted_by_kind(reproduce, pretended, committed):
    from ftcli.reproduce import verdicts

    reproduction = reproduce(only="1")
    before = papers.summarise_paper(reproduction.recipe)
    assert before == "central 0/1 hold, exact 0/1, statistical 0/2; 3 not judged yet"
    verdicts.store_verdicts(reproduction)
    after = papers.summarise_paper(reproduction.recipe)
    assert after == "central 0/1 hold, exact 1/1, statistical 0/2; 2 not judged yet"
