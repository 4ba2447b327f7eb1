"""`ftcli train`: the main job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

GROUP = "Train"


def train(
    job: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged job.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, group=option, +new=1, ~drop ...")
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option(help="Also allow _target_ classes from this package.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option("--processes", "-p", help="Processes on this machine, one per GPU.", min=1),
    ] = 1,
    nodes: Annotated[
        int, typer.Option("--nodes", help="Machines; the same command on each.", min=1)
    ] = 1,
    node_rank: Annotated[
        int, typer.Option("--node-rank", help="Which of them this is, from 0.", min=0)
    ] = 0,
    rendezvous: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first machine, where all meet.")
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(help="slurm_nodes: submit the run; launcher.nodes=4 and others set it up."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One step on the longest rows; leaves no run behind.")
    ] = False,
) -> int:
    """Compose, check, train, and leave a run directory."""
    from ftcli.cli.result_tables import show_result, show_stages
    from ftcli.config import compose, validate_and_convert
    from ftcli.config.value_ranges import find_unusual_values
    from ftcli.jobs.launch import LaunchTopology, Machines, launch
    from ftcli.jobs.train import train as start

    if launcher:
        return _submit(job, overrides or [], launcher, trust or ())
    topology = LaunchTopology(processes, Machines(nodes, node_rank, rendezvous))
    composed = compose(job, overrides or [])
    validate_and_convert(composed, trust=tuple(trust or ()))
    for doubt in find_unusual_values(composed):
        logging.getLogger("ftcli.config").warning("%s %s", doubt.where, doubt.what)
    if dry_run:
        return _dry_run(composed)
    if composed.config.get("stages"):
        from ftcli.jobs import stages

        return show_stages(stages.start_stages(composed, topology))
    return show_result(launch(composed, topology) if topology.several else start(composed))


def _submit(job: str, words: Sequence[str], launcher: str, trust: Sequence[str]) -> int:
    """Check the job here, and give it to a launcher of whole runs."""
    from ftcli.config import compose, validate_and_convert
    from ftcli.core import errors
    from ftcli.core.console import console
    from ftcli.sweeps.composition import build_launcher, split_launcher_words

    about, words = split_launcher_words(words)
    chosen: Any = build_launcher(job, launcher, about)
    if not hasattr(chosen, "submit"):
        raise errors.UserError(
            f"launcher={launcher} starts the trials of a sweep, not one run.",
            fix=f"--launcher slurm_nodes, or: ftcli sweep {job} --launcher {launcher}",
        )
    composed = compose(job, words)
    validate_and_convert(composed, trust=tuple(trust))
    logs = Path(composed.config["run"]["dir"]).resolve() / "slurm"
    trusted = [word for module in trust for word in ("--trust", module)]
    number = chosen.submit([job, *words, *trusted], logs)
    console().print(f"job {number} is submitted; its machines write to {logs}")
    return errors.OK


def _dry_run(composed: Any) -> int:
    """Try every stage of a job, or the job itself, and print what it took."""
    from ftcli.core import errors
    from ftcli.core.console import console
    from ftcli.jobs import stages
    from ftcli.jobs.dry_run import dry_run
    from ftcli.planning.display import format_bytes, format_duration

    jobs = stages.compose_stages(composed) if composed.config.get("stages") else {}
    for name, job in (jobs or {"": composed}).items():
        report = dry_run(job)
        console().print(
            f"{name + ': ' if name else ''}a step on the longest rows ({report.shape}) takes "
            f"{report.step_seconds:.2f} s and {format_bytes(report.peak_bytes)}; judging a batch {report.evaluation_seconds:.2f} s\n"
            f"{report.run_steps:,} steps take about {format_duration(report.run_seconds)}, evaluations not counted"
        )
    return errors.OK
