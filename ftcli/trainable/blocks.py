"""The parameters a method trains, sorted by the block of the model they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ftcli.core.errors import UserError
from ftcli.models.anatomy import Anatomy

Named = tuple[str, nn.Parameter]


@dataclass(frozen=True)
class Candidates:
    """All parameters that require a gradient, each once, under its name in the prepared model.

    Attributes:
        inside: block number -> its (name, parameter) pairs. Blocks are numbered through all stacks in the order of the
            model (an encoder before its decoder); those without candidates are left out.
        outside: those of embeddings, final norm and head, and those that several blocks share.
    """

    inside: dict[int, list[Named]]
    outside: list[Named]

    @classmethod
    def from_model(cls, model: nn.Module) -> Candidates:
        """Sort the candidates of a prepared model, PEFT wrappers and tied weights included.

        Raises:
            UserError: no block holds a trained parameter.
        """
        homes = _map_to_blocks(model)
        inside: dict[int, list[Named]] = {}
        outside: list[Named] = []
        for name, parameter in model.named_parameters():  # yields a tied tensor once
            if parameter.requires_grad:
                home = homes[id(parameter)]
                place = outside if home is None else inside.setdefault(home, [])
                place.append((name, parameter))
        if not inside:
            raise UserError(
                "nothing that the method trains lies inside a block of the model, so there is "
                "nothing to choose from.",
                where="trainable",
                fix="method=lora or method=full, or leave `trainable` out",
            )
        return cls(dict(sorted(inside.items())), outside)

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that hold candidates, ascending."""
        return list(self.inside)

    def __iter__(self) -> Iterator[Named]:
        for block in self.inside.values():
            yield from block
        yield from self.outside


def _map_to_blocks(model: nn.Module) -> dict[int, int | None]:
    """Map the id of each parameter to the only block that uses it, or None if none or several do."""
    owners: dict[int, set[int]] = {}
    for number, (_, block) in enumerate(Anatomy(model).blocks):
        for module in block.modules():
            owners.setdefault(id(module), set()).add(number)
    places: dict[int, set[int | None]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            places.setdefault(id(parameter), set()).update(owners.get(id(module), {None}))
    return {key: next(iter(blocks)) if len(blocks) == 1 else None for key, blocks in places.items()}
