"""`ftcli reproduce`: does a recipe still give what its paper claims."""

from __future__ import annotations

from typing import Annotated, Any

import typer

GROUP = "Train"


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="A recipe: qlora, or its YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value for every run, to try things.")
    ] = None,
    look: Annotated[
        int,
        typer.Option(
            help="2: with as many further seeds, and an interval that allows for it.", min=1
        ),
    ] = 1,
    seeds: Annotated[
        int | None, typer.Option(help="Fewer, to try things; decides nothing.", min=1)
    ] = None,
    scale: Annotated[
        str, typer.Option(help="small, real (SmolLM2), or paper (planned).")
    ] = "small",
    only: Annotated[str | None, typer.Option(help="Number or words of the claim to judge.")] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Train what is only planned otherwise.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search the settings that the recipe asks for.")
    ] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="List verdicts whose code has changed.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Repeat the first seed of stale verdicts, to the bit.")
    ] = False,
    rerun_old: Annotated[
        bool, typer.Option("--rerun-old", help="With --confirm: run the verdict's commit as well.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Keep verdicts beside the recipe.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Run a paper's recipe and baselines over seeds, and judge its claims.

    Finished runs of the same code are found again. Exit status 1 when a claim fails; what is
    inconclusive or not measurable here is said and does not change it.
    """
    from ftcli.config import recipe_reading as reading
    from ftcli.core.errors import UserError

    if stale:
        return _list_stale(paper, as_json)
    if paper is None:
        raise UserError("no paper is given.", "ftcli reproduce", "ftcli ls recipes")
    if tune:
        return _search(reading.find_recipe(paper), overrides or [], scale, as_json)
    if confirm:
        return _confirm(reading.find_recipe(paper), scale, rerun_old, as_json)
    _refuse_contradictions(rerun_old, store and bool(overrides or seeds))
    options: dict[str, Any] = {"look": look, "seeds": seeds, "overrides": overrides or []}
    return _judge(
        reading.find_recipe(paper), store, as_json, scale=scale, only=only, train=run, **options
    )


def _refuse_contradictions(rerun_old: bool, stores_changed_runs: bool) -> None:
    """Refuse options that a judgement cannot follow.

    Raises:
        UserError: earlier code is asked for without --confirm, or verdicts of changed runs are to be stored.
    """
    from ftcli.core.errors import UserError

    if rerun_old:
        what = "only a confirmation runs the earlier code."
        raise UserError(what, "--rerun-old", "add --confirm")
    if stores_changed_runs:
        what = "verdicts on changed runs or fewer seeds are not the recipe's."
        raise UserError(what, "--store", "put the changes into the recipe, or leave --store out")


def _judge(recipe: Any, store: bool, as_json: bool, **options: Any) -> int:
    from ftcli.cli.findings import show_finding as show_finding
    from ftcli.core.console import console, emit
    from ftcli.reproduce import display, origin, verdicts
    from ftcli.reproduce.report import write_report
    from ftcli.reproduce.reproduction import Reproduction

    if store:
        origin.require_commit(recipe)
    reproduction = Reproduction(recipe, **options)
    for finding in reproduction.findings():
        if not as_json:
            show_finding(finding)
    reproduction.run(
        lambda step: console(stderr=True).print(display.describe_progress(step), markup=False)
    )
    report = write_report(reproduction)
    plain = verdicts.as_dict(reproduction)
    if store:
        verdicts.store_verdicts(reproduction)

    def render() -> None:
        for line in display.render_verdicts(reproduction):
            console().print(line)
        if report:
            console().print(f"report  {report}", markup=False)

    emit(plain, as_json, render)
    return reproduction.status


def _search(recipe: Any, overrides: list[str], scale: str, as_json: bool) -> int:
    """Make the trials; keep them beside the recipe unless they are not its own."""
    from ftcli.core.console import console, emit
    from ftcli.reproduce import display, tuning

    search = tuning.Search(recipe, overrides, scale)
    searched = search.run(
        lambda step: console(stderr=True).print(display.describe_progress(step), markup=False)
    )
    path = None if overrides else tuning.store_search(recipe, searched, scale)

    def render() -> None:
        for variant, result in searched["variants"].items():
            line = f"{variant}  {' '.join(result['chosen'])}  of {len(result['trials'])} trials"
            console().print(line, markup=False)
        if path:
            console().print(f"search  {path}", markup=False)

    emit(searched, as_json, render)
    return 0


def _confirm(recipe: Any, scale: str, rerun_old: bool, as_json: bool) -> int:
    """Exit status 1 where a figure differs from the stored one."""
    from ftcli.core.console import console, emit
    from ftcli.reproduce import display
    from ftcli.reproduce.confirmation import DIFFERS, confirm_verdicts

    outcome = confirm_verdicts(
        recipe,
        scale,
        lambda step: console(stderr=True).print(display.describe_progress(step), markup=False),
        rerun_old,
    )

    def render() -> None:
        for say, result in outcome.items():
            console().print(f"{result}  {say}", markup=False)
        console().print(f"{len(outcome)} verdicts were stale", markup=False)

    emit(outcome, as_json, render)
    return int(DIFFERS in outcome.values())


def _list_stale(paper: str | None, as_json: bool) -> int:
    """Exit status 1 where a verdict is stale."""
    from ftcli.config import recipe_reading as reading
    from ftcli.core.console import console, emit
    from ftcli.reproduce import papers, verdicts

    recipes = [reading.find_recipe(paper)] if paper else papers.list_recipes()
    rows = [
        {"paper": r.name, "claim": c.identity, "say": c.say, "why": why}
        for r in recipes
        for c, why in papers.find_stale(r)
    ]
    earlier = {
        r.name: sum(
            record.get("rules") is not None
            for record in verdicts.load_verdicts(r)["verdicts"].values()
        )
        for r in recipes
    }

    def render() -> None:
        for row in rows:
            console().print(f"{row['paper']}  {row['say']}: {row['why']}", markup=False)
        of = ", ".join(f"{name} {count}" for name, count in earlier.items() if count)
        console().print(f"{len(rows)} stale", markup=False)
        if of:
            console().print(f"under earlier rules, of unknown code: {of}", markup=False)

    emit({"stale": rows, "earlier": earlier}, as_json, render)
    return int(bool(rows))
