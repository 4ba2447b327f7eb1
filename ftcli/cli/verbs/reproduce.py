"""`ftcli reproduce`: does a recipe still give what its paper claims."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Train"


def reproduce(
    paper: Annotated[str, typer.Argument(help="A recipe: qlora, or its YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value for every run, to try things.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many; else what the claims ask for.", min=1)
    ] = None,
    scale: Annotated[str, typer.Option(help="small, or one of the recipe's: paper.")] = "small",
    only: Annotated[str | None, typer.Option(help="Number or words of the claim to judge.")] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Train, not only plan, at that scale.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Keep verdicts beside the recipe.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Run a paper's recipe and baselines over seeds, and judge its claims.

    Finished runs are found again. Exit status 1 when a claim fails; what is inconclusive or not
    measurable here is said and does not change it.
    """
    from ftcli.cli.console import console, emit
    from ftcli.cli.findings import show as show_finding
    from ftcli.errors import UserError
    from ftcli.reproduce import display, reading, verdicts
    from ftcli.reproduce.report import write
    from ftcli.reproduce.reproduction import Reproduction

    if store and overrides:
        what = "verdicts on changed runs are not the recipe's."
        raise UserError(what, "--store", "put the changes into the recipe, or leave --store out")
    made = Reproduction(reading.find(paper), scale, only, seeds, overrides or [], run)
    for finding in made.findings():
        if not as_json:
            show_finding(finding)
    made.run(lambda step: console(stderr=True).print(display.step(step), markup=False))
    report = write(made)
    if store:
        verdicts.store(made)

    def render() -> None:
        for line in display.verdicts(made):
            console().print(line)
        if report:
            console().print(f"report  {report}", markup=False)

    emit(verdicts.as_dict(made), as_json, render)
    return made.status
