"""Checks of target names: every name that should match modules must match at least one."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

from torch import nn

from ftcli.config.overrides import format_override
from ftcli.core.errors import UserError
from ftcli.methods.base import model_name
from ftcli.models.anatomy import Anatomy

ALL_LINEAR = "all-linear"
#: Options of PEFT configurations that name modules; a name that matches nothing is ignored by PEFT.
LISTS = ("target_modules", "feedforward_modules", "modules_to_save", "exclude_modules")
PATTERNS = ("rank_pattern", "alpha_pattern")


def check_patterns(config: Any) -> None:
    """Refuse invalid regular expressions; PEFT would end in an error of `re`.

    Raises:
        UserError: names the option and what is wrong with its pattern.
    """
    texts = [(key, getattr(config, key, None)) for key in LISTS]
    patterns = [(key, text) for key, text in texts if isinstance(text, str)]
    patterns += [(key, p) for key in PATTERNS for p in getattr(config, key, None) or ()]
    for key, pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{pattern!r} is not a valid regular expression: {error}.",
                where=f"method.{key}",
                fix=format_override(
                    f"method.{key}", _replace_name(getattr(config, key), pattern, "q_proj")
                )
                + "; text is a regular expression",
            ) from error


def find_unmatched(config: Any, model: nn.Module) -> list[UserError]:
    """Return one error for each name of a PEFT configuration that matches no module of the model."""
    names = [name for name, _ in model.named_modules() if name]
    problems = []
    for key in LISTS:
        wanted = getattr(config, key, None)
        if isinstance(wanted, str):
            if wanted != ALL_LINEAR and not any(re.fullmatch(wanted, name) for name in names):
                problems.append(_make_unmatched_error(key, wanted, wanted, model))
            continue
        missing = [w for w in sorted(wanted or ()) if not any(_ends(name, w) for name in names)]
        problems += [_make_unmatched_error(key, name, wanted, model) for name in missing]
    for key in PATTERNS:
        by_pattern = getattr(config, key, None) or {}
        missing = [pattern for pattern in by_pattern if not _any_pattern(names, pattern)]
        problems += [_make_unmatched_error(key, pattern, by_pattern, model) for pattern in missing]
    return problems


def _ends(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _any_pattern(names: list[str], pattern: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern matches a module, by PEFT's rule."""
    return any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)


def _replace_name(option: Any, wrong: str, right: str) -> Any:
    """Return the option's value, a list of names or a mapping by names, with one name replaced."""
    if isinstance(option, dict):
        return {right if name == wrong else name: value for name, value in option.items()}
    names = [option] if isinstance(option, str) else sorted(option)
    return [right if name == wrong else name for name in names]


def _make_unmatched_error(key: str, wanted: str, option: Any, model: nn.Module) -> UserError:
    """Return the error `'q_porj' matches 0 of 226 linear layers of Llama-3.2-1B ('q_proj' would match 16).`"""
    anatomy = Anatomy(model)
    linears = Counter(linear.name.rpartition(".")[2] for linear in anatomy.block_linears)
    others = Counter(name.rpartition(".")[2] for name in anatomy.modules if name)
    near = difflib.get_close_matches(wanted, linears, 1, 0.5)
    near = near or difflib.get_close_matches(wanted, others, 1, 0.5)
    if near:
        hint = f"'{near[0]}' would match {linears[near[0]] or others[near[0]]}"
    else:
        hint = f"there are {', '.join(linears)}"
    fixes = (
        [format_override(f"method.{key}", _replace_name(option, wanted, near[0]))] if near else []
    )
    if key == "target_modules" and not near:
        fixes = [f"method.{key}={ALL_LINEAR}"]
    return UserError(
        f"'{wanted}' matches 0 of {sum(linears.values())} linear layers of {model_name(model)} "
        f"({hint}).",
        where=f"method.{key}",
        fix="; ".join([*fixes, "method.targets_strict=false allows it"]),
    )
