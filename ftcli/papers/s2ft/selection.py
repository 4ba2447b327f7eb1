"""Which heads and channels S2FT trains (arXiv 2412.06289, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.utils import resolve_quantization_backend
from torch import Tensor

from ftcli.papers.s2ft.coupled import Coupled, Part

if TYPE_CHECKING:
    from ftcli.papers.s2ft.method import S2ftConfig

#: The paper's letter -> the part of a coupled structure.
PARTS = {"v": "value", "o": "output", "u": "up", "d": "down"}


def select(structures: Sequence[Coupled], config: S2ftConfig) -> dict[str, list[int]]:
    """Linear -> chosen heads or channels, in the order of its slice.

    The budget is one of the whole model: int(ratio * units of all layers) of them are drawn
    together, so that layers get different numbers, and some none.

    Raises:
        ValueError: the model has no such part, or a ratio is less than one of them.
    """
    generator = torch.Generator().manual_seed(config.seed)
    found: dict[str, dict[str, list[int]]] = {}
    for letter, role in PARTS.items():
        having = [s for s in structures if role in s.parts]
        ratio = config.ratios.get(letter, 0.0)
        if ratio and not having:
            raise ValueError(f"ratios.{letter}: no {role} projection is known in this model")
        if ratio:
            found[role] = _drawn(having, letter, ratio, config, generator)
    selected = {}
    for structure in structures:
        first, second = ("value", "output") if "output" in structure.parts else ("up", "down")
        chosen = {
            role: set(found.get(role, {}).get(structure.name, ())) for role in (first, second)
        }
        order = structure.arranged(chosen[first], chosen[second])
        for role, units in chosen.items():
            if units:
                part = structure.parts[role]
                sequence = structure.order_of(part, order)
                selected[part.linear.name] = [unit for unit in sequence if unit in units]
    return selected


def _drawn(
    structures: Sequence[Coupled],
    letter: str,
    ratio: float,
    config: S2ftConfig,
    generator: torch.Generator,
) -> dict[str, list[int]]:
    """Structure -> units of the highest scores of all."""
    role = PARTS[letter]
    scores = [_scores(s.parts[role], config, generator) for s in structures]
    owner = torch.repeat_interleave(torch.tensor([len(s) for s in scores]))
    budget = int(ratio * len(owner))
    if budget < 1:
        raise ValueError(f"ratios.{letter}={ratio:g} is less than one of {len(owner)}")
    taken = torch.cat(scores).topk(budget).indices
    counts = torch.bincount(owner[taken], minlength=len(scores)).tolist()
    return {
        s.name: _best(own, count, s.each if s.parts[role].units == s.groups * s.each else 1)
        for s, own, count in zip(structures, scores, counts, strict=True)
        if count
    }


def _best(scores: Tensor, count: int, each: int) -> list[int]:
    """`count` units; whole groups of `each` first, and a part of the next one.

    Heads that share a key and value cannot be parted from them: only so are chosen heads one run.
    """
    grouped = scores.view(-1, each)
    groups = grouped.mean(1).argsort(descending=True).tolist()
    whole, rest = divmod(count, each)
    units = [group * each + i for group in groups[:whole] for i in range(each)]
    if rest:
        best = grouped[groups[whole]].topk(rest).indices
        units += (best + groups[whole] * each).tolist()
    return sorted(units)


def _scores(part: Part, config: S2ftConfig, generator: torch.Generator) -> Tensor:
    """One number a unit, the highest to be chosen; by chance, or the norm of its rows or columns."""
    weight: Any = part.linear.module.weight
    if config.selection == "random" or weight.device.type == "meta":
        return torch.rand(part.units, generator=generator)
    backend = resolve_quantization_backend(part.linear.module)
    dense = weight.detach() if backend is None else backend.get_base_weight(part.linear.module)
    cut = dense.narrow(part.dim, part.start, part.units * part.width).float()
    norms = cut.movedim(part.dim, 0).reshape(part.units, -1).norm(dim=1).cpu()
    return norms if config.direction == "large" else -norms
