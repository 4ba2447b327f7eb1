"""Compose and validate every trial before the first one starts, with all errors together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcli.config import build, compose, paths, signature, validate_and_convert
from ftcli.config.job import ComposedJob, iter_leaves
from ftcli.core.errors import Problems, UserError
from ftcli.jobs.trial import write_job_record
from ftcli.sweeps.launchers.base import Launcher
from ftcli.sweeps.space import Point
from ftcli.sweeps.trial import describe_point

GROUP = "launcher"


def split_launcher_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words about the launcher (`launcher.partition=a100`), and all others."""
    about = [word for word in words if word.lstrip("+~").startswith((f"{GROUP}.", f"{GROUP}="))]
    return about, [word for word in words if word not in about]


def compose_trial(job: str, overrides: Sequence[str]) -> ComposedJob:
    """Return a composed and validated job without its launcher, which is not part of a run.

    Raises:
        UserError: the job cannot be composed or is not valid.
    """
    composed = compose(job, overrides)
    composed.config.pop(GROUP, None)
    composed.drop_origins(GROUP)
    validate_and_convert(composed)
    return composed


def compose_all(
    job: str, points: Sequence[Point], overrides: Sequence[list[str]]
) -> list[ComposedJob]:
    """Return all trials, composed and validated.

    Raises:
        UserError, Problems: the errors of all trials, each error once.
    """
    jobs: list[ComposedJob] = []
    mistakes: dict[str, tuple[UserError, list[int]]] = {}
    for number, words in enumerate(overrides):
        try:
            jobs.append(compose_trial(job, words))
        except UserError as error:
            for problem in error.problems if isinstance(error, Problems) else [error]:
                mistakes.setdefault(str(problem), (problem, []))[1].append(number)
    for mistake, numbers in mistakes.values():
        if len(numbers) < len(overrides):
            first = describe_point(points[numbers[0]])
            mistake.what += f" (in {len(numbers)} of {len(overrides)} trials, first: {first})"
    Problems.raise_if_any([mistake for mistake, _ in mistakes.values()])
    return jobs


def write_trial(composed: ComposedJob, folder: Path) -> None:
    """Write the record of a trial to its folder; a worker needs nothing else."""
    from ftcli.jobs.bases import train_missing_base

    train_missing_base(composed)  # train the base once, before any worker starts
    write_job_record(composed, folder)


def build_launcher(job: str, name: str | None, words: Sequence[str]) -> Launcher:
    """Return the launcher set by --launcher, the job, or `launcher.<key>=` words.

    Raises:
        UserError: there is no such launcher, or it has no such setting.
    """
    composed = compose(job, [*([f"{GROUP}={name}"] if name else []), *words])
    if not (composed.get(GROUP) or {}).get("_target_"):
        composed = compose(job, [f"{GROUP}=local", *words])
    validate_and_convert(composed)
    _refuse_shell_settings(composed)
    launcher: Any = build(composed.config[GROUP], GROUP, composed)
    return launcher


def _refuse_shell_settings(composed: ComposedJob) -> None:
    """Refuse shell lines in the file of a job; only the user may type them or keep them in the user's configs.

    Raises:
        UserError: a file outside the user's configs sets them, or a value holds a control character.
    """
    node = composed.config[GROUP]
    for name in signature.read_signature(node["_target_"]).attributes.get("shell", ()):
        for key, origin in composed.origins.items():
            ours = origin.file is None or origin.file.is_relative_to(paths.user_dir().resolve())
            if f"{key}.".startswith(f"{GROUP}.{name}.") and node.get(name) and not ours:
                what = f"{key} holds shell lines or options of sbatch; a job may not bring its own."
                fix = f"type it: {key}=..., or keep it in {paths.user_dir() / GROUP}"
                raise UserError(what, str(origin), fix)
    for key, value in iter_leaves(node, GROUP):
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"{key} holds a control character.", composed.where(key), f"{key}=NAME")


@contextmanager
def log_notes_once() -> Iterator[None]:
    """Log equal notes about a job once in the block, not once per trial."""
    messages: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not (text in messages or messages.add(text))  # type: ignore[func-returns-value]

    logger = logging.getLogger("ftcli.config")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
