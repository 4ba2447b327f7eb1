"""The folder a run leaves behind: its own recipe, its record and its results."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ftcli.config.checks import is_plain
from ftcli.errors import UserError
from ftcli.redaction import redacted, redacted_tree
from ftcli.run import atomic, disk


class RunDir:
    """Files of one run, named as in docs/run_directory.md. Lines are flushed one by one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, root: str | Path, name: str) -> RunDir:
        """A new folder `<root>/<name>/<time>-<4 hex>`, and the link `latest` beside it."""
        if not is_plain(name):
            raise UserError(f"run.name={name!r} is not a plain folder name.", fix="run.name=my_run")
        stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(2)}"
        path = Path(root) / name / stamp
        try:
            path.mkdir(parents=True)
            (path / "checkpoints").mkdir()
            atomic.link(path.parent / "latest", stamp)
        except OSError as error:
            why = disk.refusal(error) or str(error)
            raise UserError(
                f"the run cannot be written: {why}.", where=str(path), fix="run.dir=FOLDER"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run.

        Raises:
            UserError: the folder has no config.yaml.
        """
        if not (Path(path) / "config.yaml").is_file():
            raise UserError(f"{path} is not a run: it has no config.yaml.", fix="ftcli ls runs")
        return cls(Path(path).resolve())

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
            k: redacted(v) if isinstance(v, str) else redacted_tree(v) for k, v in fields.items()
        }
        self._append("events.jsonl", {"time": stamp, "event": kind} | said)

    def note(self, line: str) -> None:
        """Add a line to train.log."""
        with open(self.path / "train.log", "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')} {redacted(line)}\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; the last one may have been cut by a crash."""
        return _rows(self.path / "metrics.jsonl")

    def durable_lines(self) -> int:
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
