"""`ftcli check`: whether a job would run."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Inspect"
WIDTH = 30  # characters of the longest bar


def check(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    gpu: Annotated[
        float | None, typer.Option(help="GB of the GPU to check for; else what is here.", min=0.1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Config, model, target modules, data, learned tokens, lengths, memory, disk: in seconds.

    Loads no weights and needs no network. Exit status 2 when training could not start.
    """
    from ftcli.cli.findings import show_finding
    from ftcli.core import errors
    from ftcli.core.console import emit
    from ftcli.planning.fast_imports import fast_imports

    with fast_imports():
        from ftcli.planning.check import prepare_check

        job_check = prepare_check(job, overrides or [], gpu)
        findings = []
        for finding in job_check.findings():
            findings.append(finding)
            if not as_json:
                show_finding(finding)
    bad = any(finding.status == "fail" for finding in findings)
    sample = job_check.sample
    lengths = sample.histogram() if sample else None
    data = {"ok": not bad, "checks": [f.as_dict() for f in findings], "lengths": lengths}
    emit(data, as_json, lambda: _histogram(lengths or []))
    return errors.USER if bad else errors.OK


def _histogram(bars: list[dict[str, int]]) -> None:
    """Lengths of the sampled documents, a bar a range of tokens."""
    from rich.text import Text

    from ftcli.core.console import console

    most = max((bar["documents"] for bar in bars), default=0)
    for bar in bars:
        width = round(WIDTH * bar["documents"] / most)
        where = f"{bar['from']:>7,} - {bar['to']:<6,}"
        console().print(Text(f"{' ' * 12}{where} {'█' * width} {bar['documents']:,}"))
