"""Where in a model the tensors of a change stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftcli.deltas.product import PREFIX

if TYPE_CHECKING:
    from ftcli.models.anatomy import Anatomy


def find_positions(anatomy: Anatomy, names: Sequence[str]) -> dict[str, tuple[int, int] | None]:
    """Block and number of blocks in its stack of each tensor; None outside blocks.

    Blocks are those of the model, whatever digits a name has besides (`layers.3.mlp.0.weight`).
    An adapter's names carry PEFT's prefix.
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
