"""`requires:` in a job or an option: what other keys must be for it to make sense.

    requires:
      model.quantization: {one_of: [nf4, fp4, int8], because: QLoRA needs a quantised base, or: method=lora}

or only the list of values. `fix: optimizer=mezo` says how the first of them is got, where setting the key
itself would not do. With `derive: true` the first of them is taken where nobody sets the key. It is kept
in the configuration and handed to no class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.config.composed import Composed
from ftcli.config.effective import value
from ftcli.config.job import REQUIRES
from ftcli.config.paths import shown
from ftcli.core.errors import UserError


def problems(composed: Composed) -> list[UserError]:
    """Every requirement of the job or of a chosen option that is not met."""
    found = []
    for owner, key, rule in _rules(composed.config):
        if value(composed, key) not in _values(rule):
            words = rule if isinstance(rule, Mapping) else {}
            found.append(_unmet(composed, owner, key, _values(rule), words))
    return found


def derive(composed: Composed) -> None:
    """Set the keys that an option derives from itself, unless they are set; its line is their origin."""
    for owner, key, rule in _rules(composed.config):
        group, _, name = key.partition(".")
        node = composed.config.get(group)
        if not isinstance(rule, Mapping) or not rule.get("derive") or not isinstance(node, dict):
            continue
        if name not in node and value(composed, key) is not None:
            node[name] = _values(rule)[0]
            composed.origins[key] = composed.origin(f"{owner}.{REQUIRES}" if owner else REQUIRES)


def allowed(node: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Key -> values, of the requirements that one option states."""
    return {str(key): _values(rule) for key, rule in (node.get(REQUIRES) or {}).items()}


def _values(rule: Any) -> list[Any]:
    found = rule.get("one_of") if isinstance(rule, Mapping) else rule
    return found if isinstance(found, list) else [found]


def _rules(node: Mapping[str, Any], owner: str = "") -> Iterator[tuple[str, str, Any]]:
    """Group that asks ('' for the job itself), key it asks about, values."""
    for name, inner in node.items():
        if not isinstance(inner, Mapping):
            continue
        if name == REQUIRES:
            yield from ((owner, str(key), rule) for key, rule in inner.items())
        elif not owner:
            yield from _rules(inner, name)


def _unmet(
    composed: Composed, owner: str, key: str, values: list[Any], rule: Mapping[str, Any]
) -> UserError:
    asker = composed.named(owner) if owner else shown(composed.job)
    because = rule.get("because") or f"it is made for {', '.join(map(str, values))}"
    what = f"{asker} with {key}={value(composed, key)} ({composed.where(key)}): {because}."
    instead = rule.get("or") or ("" if owner else "~requires to do without")
    way = str(rule.get("fix") or f"{key}={values[0]}")
    ways = [way, *([str(instead)] if instead else [])]
    return UserError(what, fix=f"either {' or '.join(ways)}" if instead else ways[0])
