"""The folder a run leaves behind: its own recipe, its record and its results."""

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
from ftcli.core.errors import FAILED, USER, Problems, UserError
from ftcli.core.redaction import redact, redact_tree

BEGUN = "begin"  # event of the moment before the first step
STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}")


class RunDir:
    """Files of one run, named as in docs/run_directory.md. Lines are flushed one by one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._new: list[Path] = []  # folders that `create` has made, the innermost first

    @classmethod
    def create(cls, root: str | Path, name: str) -> RunDir:
        """A new folder `<root>/<name>/<time>-<4 hex>`; the link `latest` follows when training begins."""
        if not is_plain_name(name):
            raise UserError(f"run.name={name!r} is not a plain folder name.", fix="run.name=my_run")
        stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(2)}"
        path = Path(root) / name / stamp
        run_dir = cls(path)
        run_dir._new = [path, *(folder for folder in path.parents if not folder.exists())]
        try:
            path.mkdir(parents=True)
            (path / "checkpoints").mkdir()
        except OSError as error:
            why = disk.describe_fault(error) or str(error)
            raise UserError(
                f"the run cannot be written: {why}.", where=str(path), fix="run.dir=FOLDER"
            ) from error
        return run_dir

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run.

        Raises:
            UserError: the folder has no config.yaml.
        """
        if not (Path(path) / "config.yaml").is_file():
            raise UserError(f"{path} is not a run: it has no config.yaml.", fix="ftcli ls runs")
        return cls(Path(path).resolve())

    def begin(self, step: int) -> None:
        """Training begins after `step` steps: note it, and let `latest` name the run.

        A stage's folder lies in that of its job, which is then the one that `latest` names.
        """
        self.event(BEGUN, step=step)
        for folder in (self.path, self.path.parent):
            latest = folder.parent / "latest"
            newer = latest.exists() and latest.resolve().name > folder.name
            if STAMP.fullmatch(folder.name) and not newer:
                atomic.link(latest, folder.name)

    @property
    def begun(self) -> int:
        """How often training has begun, here or in a stage: once, and once more with every resume."""
        files = [self.path / "events.jsonl", *self.path.glob("*/events.jsonl")]
        return sum(row.get("event") == BEGUN for file in files for row in _rows(file))

    @contextmanager
    def removed_unless_started(self) -> Iterator[None]:
        """Remove the new folder where the block ends in a mistake of the user before the first step."""
        try:
            yield
        except UserError as error:
            if error.code == USER and not self.begun:
                self.withdraw()
                for problem in error.problems if isinstance(error, Problems) else [error]:
                    if self._holds(problem.where or ""):
                        problem.where = None  # the record of a stage, which is gone
            raise

    def failure(self) -> int:
        """The exit status of a run whose ranks failed; torchrun gives 1 whatever theirs was.

        Ranks fail one after the other: a mistake of one (2, or 3 where memory ran out) ends the
        others' connection, which is 1 there.
        """
        rows = _rows(self.path / "events.jsonl")
        codes = [row["code"] for row in rows if row.get("event") == "failed" and "code" in row]
        return max(codes, default=FAILED)

    def _holds(self, where: str) -> bool:
        file = Path(where.rpartition(":")[0] or where).resolve()
        return file.is_relative_to(self.path.resolve())

    def withdraw(self) -> None:
        """Remove the folder, and the folders around it that were made for it and hold nothing else."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # another run may lie beside it by now
            for folder in self._new[1:]:
                folder.rmdir()

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        self._append("metrics.jsonl", metrics)

    def event(self, kind: str, **fields: Any) -> None:
        """Add a line to events.jsonl."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        said = {
            k: redact(v) if isinstance(v, str) else redact_tree(v) for k, v in fields.items()
        }
        self._append("events.jsonl", {"time": stamp, "event": kind} | said)

    def note(self, line: str) -> None:
        """Add a line to train.log."""
        with open(self.path / "train.log", "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')} {redact(line)}\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; the last one may have been cut by a crash."""
        return _rows(self.path / "metrics.jsonl")

    def sync_metrics(self) -> int:
        """Lines of metrics.jsonl, which are on the disk when this returns."""
        if (self.path / "metrics.jsonl").exists():
            atomic.sync(self.path / "metrics.jsonl")
        return len(self.metrics())

    def rewind(self, lines: int, step: int = 0) -> None:
        """Forget what is about to be done again.

        Args:
            lines: of metrics.jsonl that stay.
            step: the next one; what files in samples/ hold of it and later ones goes.
        """
        text = "".join(json.dumps(row) + "\n" for row in self.metrics()[:lines])
        atomic.write_text(self.path / "metrics.jsonl", text)
        for path in (self.path / "samples").glob("*.jsonl"):
            if not path.name[0].isdigit():  # those begin with their step and are written anew
                kept = (row for row in _rows(path) if row.get("step", 0) < step)
                said = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
                atomic.write_text(path, said)

    def result(self) -> dict[str, Any]:
        """result.json; empty before the run has ended."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def asked(self, word: str) -> bool:
        """Whether somebody has made the file SAVE or STOP; asking takes it away."""
        path = self.path / word
        if not path.exists():
            return False
        path.unlink(missing_ok=True)
        return True

    def _append(self, name: str, value: Mapping[str, Any]) -> None:
        line = json.dumps(dict(value), ensure_ascii=False, default=str) + "\n"
        with open(self.path / name, "ab+") as stream:
            if stream.tell() and not _ends_line(stream):
                line = "\n" + line  # a crash has cut the last one
            stream.write(line.encode("utf-8", "replace"))


def _ends_line(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none where it does not exist."""
    rows = []
    for line in path.read_text("utf-8", "replace").split("\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def is_plain_name(name: str) -> bool:
    """Whether a name stays in the folder it is put into, on any system."""
    parts = name and not any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in name)
    return (
        bool(parts)
        and name.strip() not in ("", ".", "..")
        and len(name.encode("utf-8", "replace")) < 200
    )
