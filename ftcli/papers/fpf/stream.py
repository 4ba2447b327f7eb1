"""The stream of tasks: which rows each has, and the batches of every pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftcli.core.errors import UserError
from ftcli.data.media.labelled_split import Rows

Array = np.ndarray[Any, Any]


class TaskStream:
    """Tasks one after the other, `epochs` passes over each.

    The batches of a pass are a function of seed and pass. A pass has ceil(rows / batch_size) batches of
    nearly equal size, so that none is of a single row, which BatchNorm could not normalise.

    Attributes:
        tasks: row numbers of each task.
    """

    def __init__(
        self, tasks: Sequence[Sequence[int]], epochs: int, batch_size: int, seed: int
    ) -> None:
        self.tasks, self.epochs, self.batch_size, self.seed = tasks, epochs, batch_size, seed

    @property
    def num_steps(self) -> int:
        """Number of batches of the whole stream."""
        return self.epochs * sum(-(-len(rows) // self.batch_size) for rows in self.tasks)

    @property
    def num_passes(self) -> int:
        """Number of passes of the whole stream."""
        return self.epochs * len(self.tasks)

    def find_task(self, number: int) -> tuple[int, int]:
        """Return the task of a pass, and the number of the pass within it."""
        return divmod(number, self.epochs)

    def list_batches(self, number: int) -> list[Rows]:
        """Return the row numbers of each batch of a pass."""
        rows = np.asarray(self.tasks[self.find_task(number)[0]])
        order = np.random.default_rng([self.seed, number]).permutation(rows)
        return [Rows(part.tolist(), number) for part in cut(order, self.batch_size)]


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
