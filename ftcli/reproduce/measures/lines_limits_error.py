"""LiNeS at the ends of its range, on a trained run."""

from __future__ import annotations

from pathlib import Path

EXACT = True


def lines_limits_error(run: Path) -> float:
    """Largest deviation from: gamma 1 is the finetuned model, gamma 0 keeps all of the last block and
    nothing of the first and of what is outside, no slope is a uniform scale.
    """
    from ftcli.papers.lines.scaling import positions, scaled, single
    from ftcli.reproduce.deltas import opened

    change = opened(run).delta
    assert change.source is not None
    places = positions(change.source.anatomy, list(change))
    whole, none = scaled(change, *single(1.0)), scaled(change, *single(0.0))
    level = scaled(change, 0.3, 0.0)
    found = []
    for name, place in places.items():
        own = change[name]
        found += [(whole[name] - own).abs().max(), (level[name] - 0.3 * own).abs().max()]
        if place is None or place[0] == 0:
            found.append(none[name].abs().max())
        elif place[0] == place[1] - 1:
            found.append((none[name] - own).abs().max())
    return max(one.item() for one in found)
