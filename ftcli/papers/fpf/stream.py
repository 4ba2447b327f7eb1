"""The stream of tasks: which rows each has, and the batches of every pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data.media.labelled_split import Rows

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pass:
    """A pass over a task.

    Attributes:
        task: number of the task.
        first: whether it is the first pass over the task.
        last: whether it is the last one.
        batches: how many batches it has; fewer than the task has where its steps end before.
        whole: whether it has all batches of the task.
    """

    task: int
    first: bool
    last: bool
    batches: int
    whole: bool


class TaskStream:
    """Tasks one after the other, each for an equal number of steps, in as many passes as these take.

    The batches of a pass are a function of seed and pass. A pass has ceil(rows / batch_size) batches of
    nearly equal size, so that none is of a single row, which BatchNorm could not normalise.

    Attributes:
        tasks: row numbers of each task.
        passes: all passes in order.
    """

    def __init__(
        self, tasks: Sequence[Sequence[int]], num_steps: int, batch_size: int, seed: int
    ) -> None:
        self.tasks, self.num_steps = tasks, num_steps
        self.batch_size, self.seed = batch_size, seed
        shares = [len(part) for part in np.array_split(range(num_steps), len(tasks))]
        self.passes = [p for task, steps in enumerate(shares) for p in self._plan(task, steps)]

    def list_batches(self, number: int) -> list[Rows]:
        """Return the row numbers of each batch of a pass."""
        planned = self.passes[number]
        rows = np.asarray(self.tasks[planned.task])
        order = np.random.default_rng([self.seed, number]).permutation(rows)
        parts = cut(order, self.batch_size)[: planned.batches]
        return [Rows(part.tolist(), number) for part in parts]

    def _plan(self, task: int, steps: int) -> list[Pass]:
        """Return the passes over a task that take so many steps."""
        each = -(-len(self.tasks[task]) // self.batch_size)
        starts = range(0, steps, each)
        counts = [min(each, steps - start) for start in starts]
        return [
            Pass(task, start == 0, start + each >= steps, count, count == each)
            for start, count in zip(starts, counts, strict=True)
        ]


def cut(rows: Array, most: int) -> list[Array]:
    """Cut rows into the least number of parts of at most so many, whose sizes differ by one at most."""
    return np.array_split(rows, -(-len(rows) // most)) if len(rows) else []


def assign_tasks(prepared: Any, tasks: int) -> Array:
    """Return the task of each row of a split, int64 [rows].

    The classes of images or sounds, or the sources of texts, are cut in their order into so many tasks
    of nearly equal numbers of them.

    Raises:
        UserError: there are fewer classes or sources than tasks.
    """
    if hasattr(prepared, "labels"):
        categories, count = np.asarray(prepared.labels), len(prepared.names)
    else:
        categories = np.asarray(prepared.find_sources(range(len(prepared))))
        count = len(prepared.sizes)
    if count < tasks:
        raise UserError(
            f"{count} classes or sources are not enough for {tasks} tasks.",
            where="pipeline.tasks",
            fix=f"pipeline.tasks={count}, or data with more of them",
        )
    task_of = np.concatenate(
        [np.full(len(part), task) for task, part in enumerate(np.array_split(range(count), tasks))]
    )
    return task_of[categories]


def split_tasks(prepared: Any, tasks: int) -> list[list[int]]:
    """Return the row numbers of each task of a split; see `assign_tasks`."""
    assigned = assign_tasks(prepared, tasks)
    return [np.flatnonzero(assigned == task).tolist() for task in range(tasks)]
