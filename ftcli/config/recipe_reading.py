"""Read the keys of a recipe beside its job, and report all mistakes in them, each with file:line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ftcli.config import job, paths
from ftcli.config.paths import find_nearest
from ftcli.config.recipe import (
    EXACT,
    MAX_CENTRAL,
    MIN_SEEDS,
    RELATIONS,
    SMALL,
    STATISTICAL,
    Claim,
    Recipe,
    Tune,
    describe_unknown_measure,
    is_exact_measure,
)
from ftcli.config.yaml_locations import locate_keys, read_yaml
from ftcli.core.errors import Problems, UserError

#: Type of a pydantic error -> text behind the key in a message.
_MESSAGES = {
    "missing": "is not given",
    "float_type": "is not a number", "float_parsing": "is not a number",
    "int_type": "is not a whole number", "int_parsing": "is not a whole number",
    "string_type": "must be text: put it in quotes", "list_type": "must be a list",
    "bool_type": "must be true or false", "bool_parsing": "must be true or false",
    "literal_error": "is none of: exact, statistical, trivial",
    "dict_type": "must hold names and values", "dataclass_type": "must hold keys and values",
}  # fmt: skip


def find_recipe(name: str) -> Recipe:
    """Read the recipe of a path or a name (`qlora`).

    Raises:
        UserError: there is none, it is a job without claims, or one of its keys is wrong.
    """
    return read_recipe(paths.find_job(name))


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in a file.

    Raises:
        UserError: it is a job without claims, or one key is wrong; Problems: several are.
    """
    if not is_recipe(path):
        raise UserError(
            "is a job without claims: there is nothing to reproduce.",
            where=paths.format_path(path),
            fix="ftcli ls recipes, or add `paper:` and `claims:`",
        )
    recipe, problems = _parse_recipe(path)
    Problems.raise_if_any(problems)
    assert recipe is not None
    return recipe


def find_recipe_problems(path: Path) -> list[UserError]:
    """Return all mistakes in the recipe's keys of a job; empty for a job without such keys."""
    return _parse_recipe(path)[1] if is_recipe(path) else []


def is_recipe(path: Path) -> bool:
    """Whether the file of a job has keys of a recipe."""
    return any(key in locate_keys(path) for key in job.RECIPE_KEYS)


def _parse_recipe(path: Path) -> tuple[Recipe | None, list[UserError]]:
    node = read_yaml(path)
    plain: Any = OmegaConf.to_container(node)
    values = {key: plain[key] for key in job.RECIPE_KEYS if key in plain}
    lines = dict(
        _iter_lines(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    )
    where = _Locator(path, lines)
    try:
        recipe = replace(TypeAdapter(Recipe).validate_python(values), path=path)
    except ValidationError as error:
        return None, [_make_error(e, where) for e in error.errors(include_url=False)]
    return recipe, list(_find_contradictions(recipe, where))


class _Locator:
    """Gives file:line of a dotted key, or of the nearest mapping around it."""

    def __init__(self, path: Path, lines: dict[str, int]) -> None:
        self.path, self.lines = path, lines

    def __call__(self, key: str) -> str:
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return (
            f"{paths.format_path(self.path)}:{self.lines[key]}"
            if key
            else paths.format_path(self.path)
        )


def _iter_lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield dotted key and line of every node; items of a list have their index as key."""
    items: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        items = [(str(name.value), name, value) for name, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        items = [(str(index), value, value) for index, value in enumerate(node.value)]
    for name, at, value in items:
        key = f"{prefix}.{name}" if prefix else name
        yield key, at.start_mark.line + 1
        yield from _iter_lines(value, key)


def _make_error(error: ErrorDetails, where: _Locator) -> UserError:
    key = ".".join(map(str, error["loc"]))
    kind = str(error["type"])
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        owner, _, name = key.rpartition(".")
        keys: Any = {"claim": Claim, "tune": Tune}.get(_find_owner(owner))
        near = find_nearest(name, list(keys.__dataclass_fields__) if keys else [], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return UserError(f"{key} is not a key of a {_find_owner(owner)}.{hint}", where(key))
    text = _MESSAGES.get(kind, str(error["msg"]).lower())
    return UserError(f"{key} {text}.", where(key))


def _find_owner(key: str) -> str:
    return "claim" if key.startswith("claims") else key.partition(".")[0] or "recipe"


def _find_contradictions(recipe: Recipe, where: _Locator) -> Iterator[UserError]:
    """Yield the problems of a recipe whose values all have the right type."""
    if not recipe.claims:
        yield UserError("claims is empty: nothing is judged.", where("claims"))
    if recipe.own in recipe.baselines:
        what = f"the baseline {recipe.own} has the name of the job itself."
        yield UserError(what, where(f"baselines.{recipe.own}"), "variant: NAME of the job")
    if SMALL in recipe.scales:
        what = "the scale `small` is the job itself and cannot be defined."
        yield UserError(what, where(f"scales.{SMALL}"), "put these values into the job")
    yield from _check_scaled_variants(recipe, where)
    for index, claim in enumerate(recipe.claims):
        for key, what, fix in _check_claim(recipe, claim):
            yield UserError(what, where(f"claims.{index}.{key}"), fix)
    yield from _find_duplicates(recipe, where)
    yield from _check_evidence(recipe, where)
    yield from _check_tune(recipe, where)


def _check_scaled_variants(recipe: Recipe, where: _Locator) -> Iterator[UserError]:
    """Yield scales and variants under `scaled_variants` that the recipe does not have."""
    for scale, variants in recipe.scaled_variants.items():
        key = f"scaled_variants.{scale}"
        if scale not in recipe.scales:
            yield UserError(f"scales has no {scale}.", where(key), "add it to `scales`")
        for name in variants:
            if name not in recipe.variants():
                known = ", ".join(recipe.variants())
                yield UserError(
                    f"{name} is not a variant.", where(f"{key}.{name}"), f"one of {known}"
                )


def _find_duplicates(recipe: Recipe, where: _Locator) -> Iterator[UserError]:
    """Yield the claims with the identity of an earlier one: the two would share a verdict."""
    first: dict[str, int] = {}
    for index, claim in enumerate(recipe.claims):
        before = first.setdefault(claim.identity, index)
        if before != index:
            what = f"claims {before + 1} and {index + 1} have the same figure and relation: {claim.identity}."
            yield UserError(what, where(f"claims.{index}"), "remove one of them")


def _check_evidence(recipe: Recipe, where: _Locator) -> Iterator[UserError]:
    """Yield problems of the seeds and of the number of central claims."""
    central = {claim.statement for claim in recipe.claims if claim.central}
    if recipe.claims and not 1 <= len(central) <= MAX_CENTRAL:
        what = f"a recipe names one to {MAX_CENTRAL} central claims; this one names {len(central)}."
        yield UserError(
            what, where("claims"), "central: true; with `needs` where it cannot be judged here"
        )
    if len(set(recipe.seeds)) != len(recipe.seeds) or min(recipe.seeds, default=-1) < 0:
        yield UserError("`seeds` must be different whole numbers from 0.", where("seeds"), None)
    chance = [c for c in recipe.claims if not (c.needs or is_exact_measure(c.measure))]
    if chance and len(recipe.seeds) < MIN_SEEDS:
        what = f"seeds: a figure that is not exact needs {MIN_SEEDS} seeds; there are {len(recipe.seeds)}."
        yield UserError(what, where("seeds"), "seeds: [0, 1, 2]")


def _check_tune(recipe: Recipe, where: _Locator) -> Iterator[UserError]:
    """Yield problems of the search: unequal trials, unknown variants, a seed that also judges."""
    if recipe.tune is None:
        return
    at_small = replace(recipe.tune, scales={}) != Tune()
    if at_small or not recipe.tune.scales:
        yield from _check_search(recipe, recipe.tune, SMALL, "tune", where)
    for scale, tune in recipe.tune.scales.items():
        key = f"tune.scales.{scale}"
        if scale not in recipe.scales:
            yield UserError(f"scales has no {scale}.", where(key), "add it to `scales`")
        elif tune.scales:
            yield UserError("a search at a scale has no scales of its own.", where(key), None)
        else:
            yield from _check_search(recipe, tune, scale, key, where)


def _check_search(
    recipe: Recipe, tune: Tune, scale: str, place: str, where: _Locator
) -> Iterator[UserError]:
    if tune.seed in recipe.seeds:
        yield UserError(
            f"seed {tune.seed} is also among `seeds`, which judge the claims.",
            where(f"{place}.seed"),
            "a seed that is not among `seeds`",
        )
    for key in ("own", "fixed"):
        for name in getattr(tune, key):
            if name not in recipe.variants():
                yield UserError(f"{name} is not a baseline.", where(f"{place}.{key}.{name}"), None)
    searched = recipe.list_searched(scale)
    counts = {v: len(points) for v in searched if (points := tune.list_points(v))}
    if not tune.grid or 0 in counts.values() or not counts:
        yield UserError(
            "the search has no combination of values.",
            where(f"{place}.grid"),
            "grid: {optimizer.lr: [...]}",
        )
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield UserError(f"variants have different numbers of trials: {text}.", where(place), None)


def _check_claim(recipe: Recipe, claim: Claim) -> Iterator[tuple[str, str, str | None]]:
    """Yield key, problem and fix of everything wrong in a claim."""
    relations = [name for name in (*RELATIONS, "ranks") if getattr(claim, name) is not None]
    if len(relations) != 1:
        text = " and ".join(relations) or "no relation"
        yield "say", f"a claim has one relation; this one has {text}.", f"one of {RELATIONS}, ranks"
    known = recipe.variants()
    for key, names in (("variant", [claim.variant]), ("of", [claim.of]), ("ranks", claim.ranks)):
        for name in names or ():
            if name is not None and name not in known:
                near = find_nearest(name, known, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                yield key, f"{name} is not a baseline.{hint}", f"one of {', '.join(known)}"
    if claim.within is not None and claim.of is None:
        yield (
            "within",
            "`within` compares with a baseline, and `of` names none.",
            f"of: {known[-1]}",
        )
    if claim.compare == "ratio" and claim.of is None:
        yield (
            "compare",
            "`compare: ratio` compares with a baseline, and `of` names none.",
            f"of: {known[-1]}",
        )
    if claim.tolerance is not None and claim.equals is None:
        yield "tolerance", "`tolerance` applies to `equals` only.", None
    if claim.ranks is not None and (len(claim.ranks) < 2 or claim.of or claim.variant):
        yield "ranks", "`ranks` takes two or more variants, without `of` and `variant`.", None
    if claim.kind == STATISTICAL and not claim.needs and claim.measure.startswith("plan."):
        yield "kind", "a figure of a plan is exact, not statistical.", f"kind: {EXACT}"
    if claim.scale != SMALL and claim.scale not in recipe.scales:
        yield (
            "scale",
            f"scales has no {claim.scale}.",
            f"one of {SMALL}, {', '.join(recipe.scales)}",
        )
    if claim.given and not claim.measure.startswith("plan."):
        yield (
            "given",
            "`given` changes a plan only, and this figure comes from runs.",
            "use a baseline",
        )
    unknown = describe_unknown_measure(claim.measure)
    if unknown:
        yield "measure", unknown, None
