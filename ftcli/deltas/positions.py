"""Positions of tensors in the stacks of blocks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftcli.deltas.product import PREFIX

if TYPE_CHECKING:
    from ftcli.models.anatomy import Anatomy


def find_positions(anatomy: Anatomy, names: Sequence[str]) -> dict[str, tuple[int, int] | None]:
    """Return name -> (block, number of blocks in its stack); None for tensors outside blocks.

    Other digits of a name are ignored (`layers.3.mlp.0.weight`). Names of adapters carry PEFT's
    prefix.
    """
    positions: dict[str, tuple[int, int] | None] = {}
    for name in names:
        inner = name.removeprefix(PREFIX)
        positions[name] = None
        for stack in anatomy.stacks:
            number = inner.removeprefix(f"{stack.name}.").partition(".")[0]
            if inner.startswith(f"{stack.name}.") and number.isdigit():
                positions[name] = (int(number), len(stack.blocks))
    return positions
