"""Selection of the heads and channels that S2FT trains (arXiv 2412.06289, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.utils import resolve_quantization_backend
from torch import Tensor

from ftcli.papers.s2ft.coupled import CoupledStructure, Part

if TYPE_CHECKING:
    from ftcli.papers.s2ft.method import S2ftConfig

#: The paper's letter -> the part of a coupled structure.
PARTS = {"v": "value", "o": "output", "u": "up", "d": "down"}


def select_units(
    structures: Sequence[CoupledStructure], config: S2ftConfig
) -> dict[str, list[int]]:
    """Return the selected heads or channels of each linear by name, in the order of its slice.

    The budget is that of the whole model: int(ratio * units of all layers) units are selected over all
    layers, so that layers get different numbers, and some none.

    Raises:
        ValueError: the model has no projection of that role, or a ratio is less than one unit.
    """
    generator = torch.Generator().manual_seed(config.seed)
    units_by_role: dict[str, dict[str, list[int]]] = {}
    for letter, role in PARTS.items():
        candidates = [s for s in structures if role in s.parts]
        ratio = config.ratios.get(letter, 0.0)
        if ratio and not candidates:
            raise ValueError(f"ratios.{letter}: no {role} projection is known in this model")
        if ratio:
            units_by_role[role] = _draw_units(candidates, letter, ratio, config, generator)
    selected = {}
    for structure in structures:
        first, second = ("value", "output") if "output" in structure.parts else ("up", "down")
        chosen = {
            role: set(units_by_role.get(role, {}).get(structure.name, ()))
            for role in (first, second)
        }
        order = structure.arrange_units(chosen[first], chosen[second])
        for role, units in chosen.items():
            if units:
                part = structure.parts[role]
                sequence = structure.convert_order(part, order)
                selected[part.linear.name] = [unit for unit in sequence if unit in units]
    return selected


def _draw_units(
    structures: Sequence[CoupledStructure],
    letter: str,
    ratio: float,
    config: S2ftConfig,
    generator: torch.Generator,
) -> dict[str, list[int]]:
    """Return the units of the highest scores over all structures, by structure."""
    role = PARTS[letter]
    scores = [_score_units(s.parts[role], config, generator) for s in structures]
    owner = torch.repeat_interleave(torch.tensor([len(s) for s in scores]))
    budget = int(ratio * len(owner))
    if budget < 1:
        raise ValueError(f"ratios.{letter}={ratio:g} is less than one of {len(owner)}")
    highest = torch.cat(scores).topk(budget).indices
    counts = torch.bincount(owner[highest], minlength=len(scores)).tolist()
    return {
        s.name: _take_best(values, count, s.each if s.parts[role].units == s.groups * s.each else 1)
        for s, values, count in zip(structures, scores, counts, strict=True)
        if count
    }


def _take_best(scores: Tensor, count: int, each: int) -> list[int]:
    """Return `count` units: whole groups of `each` first, then a part of the next one.

    Heads that share a key and value stay in their group, so only whole groups and one part of a group
    are consecutive rows after reordering.
    """
    grouped = scores.view(-1, each)
    groups = grouped.mean(1).argsort(descending=True).tolist()
    whole, rest = divmod(count, each)
    units = [group * each + i for group in groups[:whole] for i in range(each)]
    if rest:
        best = grouped[groups[whole]].topk(rest).indices
        units += (best + groups[whole] * each).tolist()
    return sorted(units)


def _score_units(part: Part, config: S2ftConfig, generator: torch.Generator) -> Tensor:
    """Return a score for each unit, the highest to be selected: random, or from the norm of its slice."""
    weight: Any = part.linear.module.weight
    if config.selection == "random" or weight.device.type == "meta":
        return torch.rand(part.units, generator=generator)
    backend = resolve_quantization_backend(part.linear.module)
    dense = weight.detach() if backend is None else backend.get_base_weight(part.linear.module)
    cut = dense.narrow(part.dim, part.start, part.units * part.width).float()
    norms = cut.movedim(part.dim, 0).reshape(part.units, -1).norm(dim=1).cpu()
    return norms if config.direction == "large" else -norms
