"""Processes forked from one that has imported the libraries: they begin in a tenth of a second, not in ten.

For tests of what happens to a process: signals, kills, statuses. What a fresh interpreter does is not
seen in them. The server starts with the first one and ends with the process that asked for it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")


def start(
    target: Callable[..., object],
    *arguments: Any,
    output: Path | str = os.devnull,
    environment: Mapping[str, str] | None = None,
) -> ForkServerProcess:
    """Start a function of a module in the present folder; its `exitcode` is that of a script.

    Args:
        output: file for stdout and stderr.
        environment: of the process; that of this one where it is left out.
    """
    _CONTEXT.set_forkserver_preload(["tests.warm_imports"])
    process = _CONTEXT.Process(
        target=_run,
        args=(target, arguments, str(output), dict(environment or os.environ), os.getcwd()),
    )
    process.start()
    return process


def start_ftcli(words: Sequence[str], **options: Any) -> ForkServerProcess:
    """Start the command `ftcli WORDS`; options as of `start`."""
    return start(_run_ftcli, list(words), **options)


def run_trial(command: Sequence[str], env: Mapping[str, str], check: bool) -> SimpleNamespace:
    """Stand for `subprocess.run` in `ftcli.jobs.trial`: train in a forked process."""
    from ftcli.jobs.trial import run_child

    process = start(run_child, command[-1], environment=env)
    process.join()
    return SimpleNamespace(returncode=process.exitcode)


def _run(
    target: Callable[..., object],
    arguments: Sequence[Any],
    output: str,
    environment: Mapping[str, str],
    folder: str,
) -> None:
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    target(*arguments)


def _run_ftcli(words: list[str]) -> None:
    from ftcli.cli import app

    sys.argv = ["ftcli", *words]
    app.main()
