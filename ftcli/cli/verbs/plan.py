"""`ftcli plan`: what a run will take."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"


def plan(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    gpu: Annotated[
        float | None, typer.Option(help="GB of the GPU to plan for; else what is here.", min=0.1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Memory by part, the largest micro-batch that fits, steps, tokens, disk.

    Needs neither weights nor network. A time is given where earlier runs measured one.
    """
    from ftcli.core.console import console, emit
    from ftcli.planning.fast_imports import fast_imports

    with fast_imports():
        from ftcli.planning.display import format_plan
        from ftcli.planning.fit import explain_misfit, find_alternatives
        from ftcli.planning.plan import make_plan

        job_plan = make_plan(job, overrides or [], gpu)
        ways = [] if job_plan.fits else find_alternatives(job_plan)
        misfit = explain_misfit(job_plan, ways)
        listed = [{"overrides": way.overrides, "total": way.total} for way in ways]
        data = job_plan.as_dict() | {"alternatives": listed}

    def render() -> None:
        from rich.table import Table
        from rich.text import Text

        for title, lines in format_plan(job_plan):
            table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
            table.add_column(min_width=12)
            table.add_column(justify="right", min_width=14)
            for line in lines:
                table.add_row(*map(Text, line))
            console().print(Text(title, style="bold"))
            console().print(table)
            console().print()
        if misfit:
            console().print(Text(str(misfit), style="yellow"))

    emit(data, as_json, render)
