"""The directory of a run: its configuration, its record and its results."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ftcli.core import atomic, disk
from ftcli.core.errors import USER, Problems, UserError
from ftcli.core.redaction import redact, redact_tree

STARTED = "begin"  # name of the event before the first step
STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}")


class RunDir:
    """Files of one run, named as in docs/run_directory.md; each line is flushed when it is written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._created: list[Path] = []  # folders that `create` has made, the innermost first

    @classmethod
    def create(cls, root: str | Path, name: str) -> RunDir:
        """Create the folder `<root>/<name>/<time>-<4 hex>`; the link `latest` follows when training starts.

        Raises:
            UserError: the name is no folder name, or the folder cannot be written.
        """
        if not is_plain_name(name):
            raise UserError(f"run.name={name!r} is not a plain folder name.", fix="run.name=my_run")
        stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(2)}"
        path = Path(root) / name / stamp
        run_dir = cls(path)
        run_dir._created = [path, *(folder for folder in path.parents if not folder.exists())]
        try:
            path.mkdir(parents=True)
            (path / "checkpoints").mkdir()
        except OSError as error:
            reason = disk.describe_fault(error) or str(error)
            raise UserError(
                f"the run cannot be written: {reason}.", where=str(path), fix="run.dir=FOLDER"
            ) from error
        return run_dir

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """Open the directory of an existing run.

        Raises:
            UserError: the folder has no config.yaml.
        """
        if not (Path(path) / "config.yaml").is_file():
            raise UserError(f"{path} is not a run: it has no config.yaml.", fix="ftcli ls runs")
        return cls(Path(path).resolve())

    def mark_started(self, step: int) -> None:
        """Record that training starts after `step` steps, and point the link `latest` at the run.

        The folder of a stage lies in that of its job; there `latest` points at the job's folder.
        """
        self.append_event(STARTED, step=step)
        for folder in (self.path, self.path.parent):
            latest = folder.parent / "latest"
            newer = latest.exists() and latest.resolve().name > folder.name
            if STAMP.fullmatch(folder.name) and not newer:
                atomic.write_link(latest, folder.name)

    @property
    def start_count(self) -> int:
        """Number of times training has started in this folder or in its stages; a resume counts as a start."""
        files = [self.path / "events.jsonl", *self.path.glob("*/events.jsonl")]
        return sum(row.get("event") == STARTED for file in files for row in _read_rows(file))

    @contextmanager
    def removed_on_user_error(self) -> Iterator[None]:
        """Remove the new folder if the block raises a mistake of the user before the first step."""
        try:
            yield
        except UserError as error:
            if error.code == USER and not self.start_count:
                self.remove()
                for problem in error.problems if isinstance(error, Problems) else [error]:
                    if self._contains(problem.where or ""):
                        problem.where = None  # the record of a stage, which has been removed
            raise

    def _contains(self, where: str) -> bool:
        file = Path(where.rpartition(":")[0] or where).resolve()
        return file.is_relative_to(self.path.resolve())

    def remove(self) -> None:
        """Remove the folder, and the parents that `create` made for it where they are empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # another run may lie beside it by now
            for folder in self._created[1:]:
                folder.rmdir()

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self._append_line("metrics.jsonl", metrics)

    def append_event(self, kind: str, **fields: Any) -> None:
        """Append an event to events.jsonl, secrets redacted."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        values = {k: redact(v) if isinstance(v, str) else redact_tree(v) for k, v in fields.items()}
        self._append_line("events.jsonl", {"time": stamp, "event": kind} | values)

    def append_log(self, line: str) -> None:
        """Append a line to train.log, secrets redacted."""
        with open(self.path / "train.log", "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')} {redact(line)}\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return all whole lines of metrics.jsonl; a crash may have cut the last one."""
        return _read_rows(self.path / "metrics.jsonl")

    def sync_metrics(self) -> int:
        """Sync metrics.jsonl to the disk; returns its number of lines."""
        if (self.path / "metrics.jsonl").exists():
            atomic.sync(self.path / "metrics.jsonl")
        return len(self.metrics())

    def rewind(self, lines: int, step: int = 0) -> None:
        """Remove the records of steps that are about to be repeated.

        Args:
            lines: how many lines of metrics.jsonl stay.
            step: the next step; lines of files in samples/ from this step on are removed.
        """
        text = "".join(json.dumps(row) + "\n" for row in self.metrics()[:lines])
        atomic.write_text(self.path / "metrics.jsonl", text)
        for path in (self.path / "samples").glob("*.jsonl"):
            if not path.name[0].isdigit():  # names that begin with a step are overwritten anyway
                kept = (row for row in _read_rows(path) if row.get("step", 0) < step)
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
                atomic.write_text(path, text)

    def result(self) -> dict[str, Any]:
        """Return the content of result.json; empty before the run has ended."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def take_request(self, name: str) -> bool:
        """Return whether the file `name` (SAVE or STOP) exists, and remove it."""
        path = self.path / name
        if not path.exists():
            return False
        path.unlink(missing_ok=True)
        return True

    def _append_line(self, name: str, value: Mapping[str, Any]) -> None:
        line = json.dumps(dict(value), ensure_ascii=False, default=str) + "\n"
        with open(self.path / name, "ab+") as stream:
            if stream.tell() and not _ends_with_newline(stream):
                line = "\n" + line  # a crash has cut the last line
            stream.write(line.encode("utf-8", "replace"))


def _ends_with_newline(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON-lines file; an empty list where the file does not exist."""
    rows = []
    for line in path.read_text("utf-8", "replace").split("\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def is_plain_name(name: str) -> bool:
    """Whether a name is a plain file name on any system: no separators, control characters, dots alone."""
    plain = name and not any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in name)
    return (
        bool(plain)
        and name.strip() not in ("", ".", "..")
        and len(name.encode("utf-8", "replace")) < 200
    )
