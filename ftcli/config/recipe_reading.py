"""Read a recipe's own keys strictly: every mistake with its file:line, all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from ftcli.config import job, marks, measures, paths
from ftcli.config.nearest import nearest
from ftcli.config.recipe import (
    EXACT,
    LEAST_SEEDS,
    MOST_CENTRAL,
    RELATIONS,
    SMALL,
    STATISTICAL,
    Claim,
    Recipe,
    Tune,
)
from ftcli.core.errors import Problems, UserError

#: How pydantic's answers read here.
_WORDS = {
    "missing": "is not given",
    "float_type": "is no number", "float_parsing": "is no number",
    "int_type": "is no whole number", "int_parsing": "is no whole number",
    "string_type": "must be text: put it in quotes", "list_type": "must be a list",
    "bool_type": "must be true or false", "bool_parsing": "must be true or false",
    "literal_error": "is none of: exact, statistical, trivial",
    "dict_type": "must hold names and values", "dataclass_type": "must hold keys and values",
}  # fmt: skip


def find(name: str) -> Recipe:
    """The recipe that a word means: a path, or `qlora`.

    Raises:
        UserError: there is none, it is a job without claims, or something in it is wrong.
    """
    return read(paths.find_job(name))


def read(path: Path) -> Recipe:
    """A recipe's own keys.

    Raises:
        UserError, Problems: what is wrong in it.
    """
    if not is_recipe(path):
        raise UserError(
            "is a job without claims: nothing can be reproduced.",
            where=paths.shown(path),
            fix="ftcli ls recipes, or add `paper:` and `claims:`",
        )
    recipe, found = _parsed(path)
    Problems.raise_if_any(found)
    assert recipe is not None
    return recipe


def problems(path: Path) -> list[UserError]:
    """Everything wrong in the recipe's keys of a job; none where it has no such keys."""
    return _parsed(path)[1] if is_recipe(path) else []


def is_recipe(path: Path) -> bool:
    """Whether a job's file holds a recipe's keys."""
    return any(key in marks.marks(path) for key in job.RECIPE)


def _parsed(path: Path) -> tuple[Recipe | None, list[UserError]]:
    node = marks.read(path)
    plain: Any = OmegaConf.to_container(node)
    own = {key: plain[key] for key in job.RECIPE if key in plain}
    lines = dict(_lines(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)))
    where = _Where(path, lines)
    try:
        recipe = replace(TypeAdapter(Recipe).validate_python(own), path=path)
    except ValidationError as error:
        return None, [_problem(e, where) for e in error.errors(include_url=False)]
    return recipe, list(_contradictions(recipe, where))


class _Where:
    """`recipes/qlora/recipe.yaml:31` of a dotted key, or of the mapping it would stand in."""

    def __init__(self, path: Path, lines: dict[str, int]) -> None:
        self.path, self.lines = path, lines

    def __call__(self, key: str) -> str:
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{paths.shown(self.path)}:{self.lines[key]}" if key else paths.shown(self.path)


def _lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted key -> line, list items by their index."""
    items: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        items = [(str(name.value), name, value) for name, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        items = [(str(index), value, value) for index, value in enumerate(node.value)]
    for name, at, value in items:
        key = f"{prefix}.{name}" if prefix else name
        yield key, at.start_mark.line + 1
        yield from _lines(value, key)


def _problem(error: Any, where: _Where) -> UserError:
    key = ".".join(map(str, error["loc"]))
    kind = str(error["type"])
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        owner, _, name = key.rpartition(".")
        keys: Any = {"claim": Claim, "tune": Tune}.get(_owner(owner))
        near = nearest(name, list(keys.__dataclass_fields__) if keys else [], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return UserError(f"{key} is not a key of a {_owner(owner)}.{hint}", where(key))
    said = _WORDS.get(kind, str(error["msg"]).lower())
    return UserError(f"{key} {said}.", where(key))


def _owner(key: str) -> str:
    return "claim" if key.startswith("claims") else key.partition(".")[0] or "recipe"


def _contradictions(recipe: Recipe, where: _Where) -> Iterator[UserError]:
    """What is wrong although every value has its type."""
    if not recipe.claims:
        yield UserError("claims is empty: nothing is judged.", where("claims"))
    if recipe.own in recipe.baselines:
        what = f"the baseline {recipe.own} has the name of the job itself."
        yield UserError(what, where(f"baselines.{recipe.own}"), "variant: NAME of the job")
    if SMALL in recipe.scales:
        what = "the small scale is the job as it stands."
        yield UserError(what, where(f"scales.{SMALL}"), "put these values into the job")
    for index, claim in enumerate(recipe.claims):
        for key, what, fix in _of_claim(recipe, claim):
            yield UserError(what, where(f"claims.{index}.{key}"), fix)
    yield from _alike(recipe, where)
    yield from _of_evidence(recipe, where)
    yield from _of_tune(recipe, where)


def _alike(recipe: Recipe, where: _Where) -> Iterator[UserError]:
    """Two claims with one identity would share one verdict."""
    first: dict[str, int] = {}
    for index, claim in enumerate(recipe.claims):
        before = first.setdefault(claim.identity, index)
        if before != index:
            what = f"claims {before + 1} and {index + 1} judge the same: {claim.identity}."
            yield UserError(what, where(f"claims.{index}"), "take one out")


def _of_evidence(recipe: Recipe, where: _Where) -> Iterator[UserError]:
    """Seeds that can decide, and the claims that the paper stands on."""
    central = [claim for claim in recipe.claims if claim.central]
    if recipe.claims and not 1 <= len(central) <= MOST_CENTRAL:
        what = (
            f"a recipe names one to {MOST_CENTRAL} central claims; this one names {len(central)}."
        )
        yield UserError(
            what, where("claims"), "central: true; with `needs` where it cannot be judged here"
        )
    if len(set(recipe.seeds)) != len(recipe.seeds) or min(recipe.seeds, default=-1) < 0:
        yield UserError("seeds are different whole numbers from 0.", where("seeds"), None)
    chance = [c for c in recipe.claims if not (c.needs or measures.is_exact(c.measure))]
    if chance and len(recipe.seeds) < LEAST_SEEDS:
        what = f"seeds: what chance moves takes {LEAST_SEEDS}; here are {len(recipe.seeds)}."
        yield UserError(what, where("seeds"), "seeds: [0, 1, 2]")


def _of_tune(recipe: Recipe, where: _Where) -> Iterator[UserError]:
    """The search is the same for every variant, and judges nothing."""
    tune = recipe.tune
    if tune is None:
        return
    if tune.seed in recipe.seeds:
        yield UserError(f"seed {tune.seed} judges too.", where("tune.seed"), "another seed")
    for key in ("own", "fixed"):
        for name in getattr(tune, key):
            if name not in recipe.variants():
                yield UserError(f"{name} is no baseline.", where(f"tune.{key}.{name}"), None)
    counts = {v: len(points) for v in recipe.variants() if (points := tune.points(v))}
    if not tune.grid or 0 in counts.values() or not counts:
        yield UserError("nothing is searched.", where("tune.grid"), "grid: {optimizer.lr: [...]}")
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield UserError(f"variants have different numbers of trials: {text}.", where("tune"), None)


def _of_claim(recipe: Recipe, claim: Claim) -> Iterator[tuple[str, str, str | None]]:
    """Key, problem and way out of everything wrong in one claim."""
    given = [name for name in (*RELATIONS, "ranks") if getattr(claim, name) is not None]
    if len(given) != 1:
        said = " and ".join(given) or "no relation"
        yield "say", f"a claim has one relation; this one has {said}.", f"one of {RELATIONS}, ranks"
    known = recipe.variants()
    for key, names in (("variant", [claim.variant]), ("of", [claim.of]), ("ranks", claim.ranks)):
        for name in names or ():
            if name is not None and name not in known:
                near = nearest(name, known, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                yield key, f"{name} is no baseline.{hint}", f"one of {', '.join(known)}"
    if claim.within is not None and claim.of is None:
        yield "within", "within what? `of` names the baseline.", f"of: {known[-1]}"
    if claim.compare == "ratio" and claim.of is None:
        yield "compare", "a ratio to what? `of` names the baseline.", f"of: {known[-1]}"
    if claim.tolerance is not None and claim.equals is None:
        yield "tolerance", "tolerance belongs to equals.", None
    if claim.ranks is not None and (len(claim.ranks) < 2 or claim.of or claim.variant):
        yield "ranks", "ranks names two variants or more, without `of` and `variant`.", None
    if claim.kind == STATISTICAL and not claim.needs and claim.measure.startswith("plan."):
        yield "kind", "chance has no part in a plan.", f"kind: {EXACT}"
    if claim.scale != SMALL and claim.scale not in recipe.scales:
        yield (
            "scale",
            f"scales has no {claim.scale}.",
            f"one of {SMALL}, {', '.join(recipe.scales)}",
        )
    if claim.given and not claim.measure.startswith("plan."):
        yield "given", "given changes what is planned; this figure needs runs.", "use a baseline"
    unknown = measures.unknown(claim.measure)
    if unknown:
        yield "measure", unknown, None
