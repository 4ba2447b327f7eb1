"""Distribution of training rows over clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ftcli.core.errors import UserError

Kind = Literal["iid", "dirichlet", "category"]
TRIES = 100  # draws until every client has a row


def split_rows(
    labels: Sequence[str], clients: int, kind: Kind, alpha: float, seed: int
) -> list[list[int]]:
    """Return the rows of each client in ascending order; every row belongs to one client.

    Args:
        labels: category of each row.
        alpha: dirichlet: each category is divided by shares from Dir(alpha, ..., alpha): a small alpha
            gives each client few categories, a large one similar proportions.

    Raises:
        UserError: there are fewer rows or categories than clients.
    """
    if len(labels) < clients:
        raise _too_many_clients(clients, f"{len(labels)} rows")
    random = np.random.default_rng([seed, clients])
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "iid": lambda: _split_evenly(random.permutation(len(labels)).tolist(), clients),
        "category": lambda: _split_by_category(labels, clients),
        "dirichlet": lambda: _split_dirichlet(labels, clients, alpha, random),
    }
    for _ in range(TRIES):
        parts = ways[kind]()
        if all(parts):
            return [sorted(part) for part in parts]
        if kind == "category":
            raise _too_many_clients(clients, f"{len(set(labels))} categories")
    raise UserError(
        f"{TRIES} draws of Dir({alpha:g}) left one of {clients} clients without a row of {len(labels)}.",
        where="pipeline.alpha",
        fix="raise pipeline.alpha or lower pipeline.clients",
    )


def read_categories(data: Any, tokens: Any, column: str | None, group: int = 1) -> list[str]:
    """Return the category of each row of the training data.

    Args:
        column: column with the category; None uses the answer of the row.
        group: number of documents per row.

    Raises:
        UserError: a row has no such column.
    """
    category_of = {}
    for example in data.examples("train"):
        if column is not None and column not in example["row"]:
            raise UserError(
                f"{example['origin']} has no column '{column}'.",
                where="pipeline.by",
                fix=f"one of: {', '.join(example['row'])}",
            )
        value = example["row"][column] if column is not None else example["references"][:1]
        category_of[example["origin"]] = str(value)
    return [category_of[tokens.origin(i)] for i in range(0, len(tokens), group)]


def _split_dirichlet(
    labels: Sequence[str], clients: int, alpha: float, random: np.random.Generator
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(clients)]
    for name in sorted(set(labels)):
        rows = random.permutation([i for i, label in enumerate(labels) if label == name])
        ends = np.cumsum(random.dirichlet([alpha] * clients))[:-1] * len(rows)
        for part, chosen in zip(parts, np.split(rows, ends.astype(int)), strict=True):
            part.extend(int(row) for row in chosen)
    return parts


def _split_by_category(labels: Sequence[str], clients: int) -> list[list[int]]:
    """Return a split by whole categories, assigned to the clients in turn."""
    place = {name: i % clients for i, name in enumerate(dict.fromkeys(labels))}
    return [[i for i, label in enumerate(labels) if place[label] == c] for c in range(clients)]


def _split_evenly(rows: Sequence[int], clients: int) -> list[list[int]]:
    return [list(rows[client::clients]) for client in range(clients)]


def _too_many_clients(clients: int, there_are: str) -> UserError:
    return UserError(
        f"{there_are} are not enough for {clients} clients.",
        where="pipeline.clients",
        fix="lower pipeline.clients, or give more data",
    )
