"""Options of method, trainable, penalty, callback and optimizer compose: every two of them are tried together.

Each combination trains three real steps on a tiny model, or is refused with a message that says why,
and what the message advises trains.
"""

from __future__ import annotations

import math

import pytest

from ftcli.core.callback import Callback
from ftcli.core.errors import Problems, UserError
from ftcli.run.build import build_run
from tests.methods.options import options
from tests.methods.tiny_runs import Choices, JobBuilder, apply_fix
from tests.pairwise import covering, select_rows

GROUPS = ("method", "trainable", "penalty", "callback", "optimizer")
HOPS = 6  # messages one may have to follow, each about another choice
NEED_VALUES = {"learning_rates"}  # options that leave a key to the user
ROWS = covering({group: sorted({*options(group)} - NEED_VALUES) for group in GROUPS})


class Losses(Callback):
    """Keeps what each step logs."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_log(self, state, metrics) -> None:
        self.seen.append(metrics["loss"])


@pytest.fixture(scope="session")
def builder(tmp_path_factory) -> JobBuilder:
    return JobBuilder(tmp_path_factory.mktemp("builder"))


#: All rows take minutes: of the fast set are as many as it takes to hold every option once.
FAST = {*select_rows(ROWS)}
CASES = [
    pytest.param(row, marks=[] if i in FAST else pytest.mark.slow) for i, row in enumerate(ROWS)
]


@pytest.mark.parametrize("row", CASES, ids=lambda row: "-".join(row[group] for group in GROUPS))
def test_it_trains_or_says_why_not(row, builder):
    choices = row
    for _ in range(HOPS):
        try:
            trains(builder, choices)
            return
        except UserError as error:
            assert says_why(error, choices), error
            choices = apply_fix(choices, error)
    raise AssertionError(f"the messages lead nowhere: {choices}")


def trains(builder: JobBuilder, choices: Choices, tried: set[frozenset] = set()) -> None:  # noqa: B006
    """Three steps of finite loss; of what many messages advise, only once."""
    if frozenset(choices.items()) in tried:
        return
    run = build_run(builder.job(choices | {"trainer.max_steps": "3"}).config)
    losses = run.loggers["losses"] = Losses()
    outcome = run.trainer.fit(run)
    assert outcome.status == "finished" and outcome.state.step == 3
    assert len(losses.seen) == 3 and all(map(math.isfinite, losses.seen))
    tried.add(frozenset(choices.items()))


def says_why(error: UserError, choices: Choices) -> bool:
    """Whether each problem names a choice or a place, and a way out of it."""
    errors = error.problems if isinstance(error, Problems) else [error]
    names = choices.values()
    return all(one.fix and (one.where or any(n in str(one) for n in names)) for one in errors)
