"""Rewards of answers, one module each, found by name: `rewards: {final_number: 1.0}` calls
`final_number` of `rewards/final_number.py`.

A reward is a function `(answers, **options) -> one score an answer`. None says that the answer is
none of its business (it is then left out of the sum and of the group's mean). A gold answer that
cannot be read is a mistake of the data and raises; no score is ever invented.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ftcli.core.errors import UserError

Scores = Sequence[float | None]
Reward = Callable[..., Scores]


@dataclass(frozen=True)
class Answer:
    """What the model wrote to a prompt.

    Attributes:
        text: without special tokens, stripped.
        ids: its tokens, the one that ends it included.
        truncated: it was cut at the greatest length.
        reference: the completion of the data's row.
        row: the columns of that row; empty unless a reward has the option `column`.
        prompt: the text that was asked.
    """

    text: str
    ids: Sequence[int] = ()
    truncated: bool = False
    reference: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""

    def gold(self, column: str | None) -> str:
        """The text that is right: of a column of the row, or the completion.

        Raises:
            UserError: the row has no such column.
        """
        if column is None:
            return self.reference
        if self.row.get(column) is None:
            raise UserError(
                f"a row has no '{column}'; it has {', '.join(self.row) or 'no columns'}.",
                where="objective.rewards",
            )
        return str(self.row[column])


def list_rewards() -> list[str]:
    """Names of all rewards, which are the names of this folder's modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_reward(
    name: str, options: Mapping[str, Any] | None = None
) -> Callable[[Sequence[Answer]], Any]:
    """The reward of that name with its options.

    Raises:
        UserError: no module has that name, or it takes no such option.
    """
    names, where = list_rewards(), f"objective.rewards.{name}"
    if name not in names:
        close = difflib.get_close_matches(name, names, n=2)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"{name}: no such reward. {hint}Available: {', '.join(names)}", where)
    function: Reward = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    known = list(inspect.signature(function).parameters)[1:]
    for option in options or {}:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"{name} has no option '{option}'; {has}.", where)
    return partial(function, **(options or {}))


def missing_gold_error(what: str, answer: Answer, column: str | None) -> UserError:
    """The error of a row whose gold answer cannot be read."""
    return UserError(
        f"there is no {what} in {answer.gold(column)!r}, which answers are compared with.",
        where="objective.rewards",
        fix="fix the row, or set the reward's option `column`",
    )
