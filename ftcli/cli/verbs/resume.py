"""`ftcli resume`: go on where a run stopped."""

from __future__ import annotations

from typing import Annotated

import typer

GROUP = "Train"


def resume(
    run: Annotated[str, typer.Argument(help="A run directory, or one of a job with stages.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="trainer.max_steps=200, logger=tensorboard ...")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that may have changed though steps depend on it, 'data' or 'model'."
        ),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="last, best or step-000400.")] = "last",
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
) -> int:
    """Continue at the exact batch, also a finished run for more steps; refuses changed data.

    What may change is when a run ends, logs, judges and saves (trainer.max_steps, epochs, log_every,
    eval_every, save_every, keep_last ...; eval, logger). Steps to come follow the schedule of the new
    length: with scheduler=constant they are those of a run that was that long from the start. The number
    of ranks may be another one: a step keeps its micro-batches. Of a job with stages, overrides hold for
    every stage that is not finished.
    """
    from ftcli.cli.result_tables import show_result, show_stages
    from ftcli.jobs import stages
    from ftcli.jobs.launch import LaunchTopology, Machines, run_ranks
    from ftcli.jobs.train import resume as go_on

    topology = LaunchTopology(processes, Machines(nodes, node_rank, rendezvous))
    if node_rank:
        return show_result(run_ranks(None, topology))

    if stages.is_parent(run):
        return show_stages(
            stages.resume_stages(run, allow or [], checkpoint, overrides or [], topology)
        )
    return show_result(go_on(run, allow or [], checkpoint, overrides or [], topology))
