"""A run without an optimizer takes no step, and is refused if it has steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ftcli.core.errors import UserError
from ftcli.optimizers.none import Nothing


def run(steps: int) -> SimpleNamespace:
    return SimpleNamespace(trainer=SimpleNamespace(count_steps=lambda run: steps))


def test_it_holds_nothing_and_refuses_steps():
    nothing = Nothing()
    optimizer = nothing.build([], "cpu")
    assert [group["params"] for group in optimizer.param_groups] == [[]]
    optimizer.step()
    nothing.setup(run(0))
    with pytest.raises(UserError, match="cannot take 5 steps"):
        nothing.setup(run(5))
