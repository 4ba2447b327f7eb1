"""Rewards of answers, one module each, found by name: `rewards: {final_number: 1.0}` calls
`final_number` of `rewards/final_number.py`.

A reward is a function `(answers, **options) -> one score an answer`. None means that the reward does
not apply to the answer, which is then left out of the sum and of the group's mean. A gold answer that
cannot be parsed is an error in the data and raises.
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
    """A completion that the model sampled for a prompt.

    Attributes:
        text: the decoded text without special tokens, stripped.
        ids: its token ids, including the end token.
        truncated: whether it was cut at the maximum length.
        reference: the completion in the data's row.
        row: the columns of that row; empty unless a reward has the option `column`.
        prompt: the text of the prompt.
    """

    text: str
    ids: Sequence[int] = ()
    truncated: bool = False
    reference: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""

    def gold(self, column: str | None) -> str:
        """Return the gold text: a column of the row, or the completion if `column` is None.

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
    """Return the names of all rewards, which are the names of this folder's modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_reward(
    name: str, options: Mapping[str, Any] | None = None
) -> Callable[[Sequence[Answer]], Any]:
    """Return the reward of that name with its options bound.

    Raises:
        UserError: there is no such reward, or it has no such option.
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
    """Return the error for a row whose gold answer cannot be parsed.

    Args:
        what: what the gold answer should contain, such as "number".
    """
    return UserError(
        f"there is no {what} in {answer.gold(column)!r}, which answers are compared with.",
        where="objective.rewards",
        fix="fix the row, or set the reward's option `column`",
    )
