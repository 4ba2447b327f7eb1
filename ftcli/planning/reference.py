"""The second copy of the model that an objective or a penalty compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftcli.planning.draft import Draft
from ftcli.planning.weights import weigh


@dataclass(frozen=True)
class SecondCopy:
    """Bytes of the copy; one serves everybody who asks.

    `leaves`: all that is asked of it is computed before the first step, and then it goes.
    """

    bytes: int = 0
    leaves: bool = False


def second_copy(draft: Draft) -> SecondCopy:
    """The copy that a job reads from the model's source, stored as the model is; 0 bytes without one.

    Those who compare say so by a field `reference` (see `ftcli.objectives.reference`); with a
    weight `beta` of 0 they do not.
    """
    every = [draft.objective, *draft.penalties.values()]
    users = [one for one in every if _separate(one, draft.method.keeps_base)]
    if not users:
        return SecondCopy()
    bare = draft.source.meta().requires_grad_(False)
    double = getattr(draft.source, "double_quant", True)
    leaves = all(getattr(one, "precompute", False) for one in users)
    return SecondCopy(weigh(bare, draft.quantization, double).base, leaves)


def _separate(one: Any, keeps_base: bool) -> bool:
    mode = getattr(one, "reference", None)
    if mode is None or not getattr(one, "beta", 1.0):
        return False
    return mode == "separate" or (mode == "auto" and not keeps_base)
