"""The thread that generates: it batches the rows of each model, and gives the models turns."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from threading import Condition, Thread
from typing import Any

from ftcli.models.decoding_check import find_decoding
from ftcli.serving.api.batch import Batch, generate_tokens
from ftcli.serving.api.joining_check import can_join
from ftcli.serving.api.rows import Row
from ftcli.serving.api.served import Served

MAX_WAITING = 256  # rows that wait, of all models together
SLICE = 16  # tokens of a turn, where rows of another model wait for theirs
log = logging.getLogger("ftcli.serving")


class Busy(Exception):
    """Error: the queue of waiting rows is full."""


class Line:
    """The rows of one model: those that wait, and the batch under way."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.waiting: deque[Row] = deque()
        self.batch: Batch | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting) or self.batch is not None

    @property
    def rows(self) -> list[Row]:
        """The rows that have not ended."""
        running = self.batch.rows if self.batch else []
        return [row for row in (*running, *self.waiting) if not row.finished]


class Engine:
    """Generates the answers of several models in one thread.

    Rows of one model are generated together, and join and leave the batch at any token where the
    model allows it; otherwise those that wait are a batch that runs to its end.

    Args:
        models: the models, by whose names rows are submitted.
        max_batch: rows of a batch at most.
    """

    def __init__(self, models: Sequence[Served], max_batch: int) -> None:
        self.lines = {served.name: Line(served) for served in models}
        self.max_batch = max_batch
        self._work = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="ftcli-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the current token; rows that have not ended fail."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def submit(self, name: str, rows: Sequence[Row]) -> None:
        """Queue rows for the model of this name.

        Raises:
            Busy: too many rows wait.
        """
        with self._work:
            waiting = sum(len(line.waiting) for line in self.lines.values())
            if waiting + len(rows) > MAX_WAITING:
                raise Busy
            self.lines[name].waiting.extend(rows)
            self._work.notify()

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._closed or self._busy_lines())
            if self._closed:
                break
            for line in self._busy_lines():
                self._take_turn(line)
        for line in self.lines.values():
            for row in line.rows:
                row.fail(RuntimeError("the server is shutting down."))

    def _busy_lines(self) -> list[Line]:
        return [line for line in self.lines.values() if line.busy]

    def _take_turn(self, line: Line) -> None:
        """Generate some tokens for a model; an error ends the rows at hand, not the thread."""
        taken: list[Row] = []
        try:
            with line.served.active() as model:
                taken = self._take_waiting(line)
                if can_join(model):
                    self._extend_batch(line, model, taken)
                else:
                    self._answer_whole(line, model, taken)
        except Exception as error:
            log.exception(f"{line.served.name}: generation failed")
            for row in {*taken, *(line.batch.rows if line.batch else ())}:
                row.fail(error)
            line.batch = None

    def _take_waiting(self, line: Line) -> list[Row]:
        """Remove and return the rows that fit into the batch."""
        room = self.max_batch - (len(line.batch.rows) if line.batch else 0)
        with self._work:
            taken = [line.waiting.popleft() for _ in range(min(room, len(line.waiting)))]
        return [row for row in taken if not row.cancelled]

    def _extend_batch(self, line: Line, model: Any, rows: list[Row]) -> None:
        """Let rows join the batch, generate until others may join or leave, remove those that ended."""
        config = line.served.settings
        if rows:
            new = Batch.of(rows, config.pad_token_id, line.served.device)
            new = generate_tokens(model, new, config, lambda steps: True)
            line.batch = line.batch.join(new) if line.batch else new
            line.batch = _remove_ended(line.batch)
        if line.batch is not None:
            line.batch = generate_tokens(
                model, line.batch, config, lambda steps: self._pauses(line, steps)
            )
            line.batch = _remove_ended(line.batch)

    def _pauses(self, line: Line, steps: int) -> bool:
        """Whether rows could join, half of the rows have ended, or another model is due."""
        assert line.batch is not None
        rows = line.batch.rows
        live = sum(not (row.finished or row.cancelled) for row in rows)
        joining = bool(line.waiting) and live < self.max_batch
        due = steps >= SLICE and len(self._busy_lines()) > 1
        return self._closed or joining or due or 2 * live <= len(rows)

    def _answer_whole(self, line: Line, model: Any, rows: list[Row]) -> None:
        """Generate whole answers of rows, together as far as the model allows."""
        config = line.served.settings
        batches = find_decoding(model).group_prompts(
            [len(row.prompt) for row in rows], self.max_batch
        )
        for indices in batches:
            batch = Batch.of([rows[i] for i in indices], config.pad_token_id, line.served.device)
            generate_tokens(model, batch, config, lambda steps: self._closed)
        for row in rows:
            if self._closed:
                row.fail(RuntimeError("the server is shutting down."))


def _remove_ended(batch: Batch) -> Batch | None:
    """Return the batch without the rows that have ended; None where none is left."""
    live = [i for i, row in enumerate(batch.rows) if not (row.finished or row.cancelled)]
    if len(live) == len(batch.rows):
        return batch
    return batch.keep(live) if live else None
