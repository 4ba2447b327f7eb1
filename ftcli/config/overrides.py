"""Overrides of the command line: parse them by Hydra's grammar, and format values in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.errors import HydraException

from ftcli.core.errors import Problems, UserError

_FORM = "settings are written key=value, such as optimizer.lr=1e-4"


@dataclass(frozen=True)
class Override:
    """An override of the command line.

    Attributes:
        text: text as typed.
        key: dotted key or group (`method.r`, `method`).
        value: value as Hydra reads it.
        selects_option: whether it selects an option of a group (`method=lora`).
        kind: "set", "add" or "delete".
    """

    text: str
    key: str
    value: Any
    selects_option: bool
    kind: str

    @property
    def is_hydra(self) -> bool:
        """Whether it sets a key of Hydra's own configuration (`hydra.sweep.dir=...`)."""
        return self.key.startswith(("hydra.", "hydra/"))

    def to_hydra(self) -> str:
        """Return the override for Hydra: `++` also sets keys that no YAML has, which validation checks."""
        plain = self.kind == "set" and not self.selects_option and not self.is_hydra
        return self.text if not plain or self.text.startswith("++") else f"++{self.text}"


def parse_overrides(texts: Sequence[str], folders: Sequence[Path]) -> list[Override]:
    """Parse overrides.

    Args:
        folders: search path of the configs; its subfolders are the groups.

    Raises:
        UserError: one is not in the grammar or has several values; Problems: several are wrong.
    """
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in texts:
        try:
            parsed.append(_make_override(parser.parse_override(text), text, folders))
        except HydraException as error:
            problems.append(_make_syntax_error(text, error))
        except UserError as error:
            problems.append(error)
    Problems.raise_if_any(problems)
    return parsed


def _make_override(parsed: HydraOverride, text: str, folders: Sequence[Path]) -> Override:
    if parsed.is_sweep_override():
        values = text.partition("=")[2]
        raise UserError(
            f"'{text}' gives several values where one is wanted.",
            where="command line",
            fix=f"a list is {quote_for_shell(f'{parsed.key_or_group}=[{values}]')}; "
            f"to try each: ftcli sweep JOB {quote_for_shell(text)}",
        )
    value, key = parsed.value(), parsed.key_or_group
    if not key:
        raise UserError(f"'{text}' names no key.", "command line", _FORM)
    is_group = any((folder / key).is_dir() for folder in folders)
    selects_option = is_group and not isinstance(value, dict)
    is_name = isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )
    if selects_option and not parsed.is_delete() and not is_name:
        raise UserError(
            f"'{text}': {key} wants the name of an option.",
            where="command line",
            fix=f"{key}=NAME with a name of `ftcli ls {key}`, or ~{key} to leave it out",
        )
    kind = "delete" if parsed.is_delete() else "add" if parsed.is_add() else "set"
    return Override(text, key, value, selects_option, kind)


def format_override(key: str, value: Any) -> str:
    """Format `key=value` for the command line, quoted for Hydra's grammar and for the shell."""
    return quote_for_shell(f"{key}={format_value(value)}")


def quote_for_shell(text: str) -> str:
    """Quote a word of a command line for the shell, where needed."""
    if not set(text) & set(" '\"{}$*?;&|<>()`\\!#~"):
        return text
    if "'" in text and not set(text) & set('"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)


def is_valid_override(text: str) -> bool:
    """Whether a text is an override in Hydra's grammar."""
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def parse_value(text: str) -> Any:
    """Parse a text as Hydra parses a value; the text itself where it is not in the grammar."""
    override = f"k={text}"
    return (
        OverridesParser.create().parse_override(override).value()
        if is_valid_override(override)
        else text
    )


def format_value(value: Any) -> str:
    """Format a value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{name}:{format_value(inner)}" for name, inner in value.items()) + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(format_value, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    escaped = value.replace("'", "\\'")
    plain = is_valid_override(f"k={value}") and parse_value(value) == value
    return value if plain else f"'{escaped}'"


def _make_syntax_error(text: str, error: HydraException) -> UserError:
    if "=" not in text and not text.startswith("~"):
        fix = _FORM
    elif text.partition("=")[2][:1] in ("{", "["):
        fix = "quote what is inside and holds any of =:,[]{}, or write it into the YAML file"
    else:
        fix = f"quote a value with spaces or any of ,[]{{}}: {_quote_value(text)}"
    reason = str(error).splitlines()[0].split(". See")[0]
    return UserError(f"'{text}' cannot be read: {reason}.", where="command line", fix=fix)


def _quote_value(text: str) -> str:
    key, _, value = text.partition("=")
    return format_override(key, value.strip("'\""))


def join_overrides(*parts: Iterable[str]) -> list[str]:
    """Join lists of overrides; a later choice of a group removes the earlier overrides of its keys.

    `method=full` after `method.r=64` removes `r`, as in a job.
    """
    joined: list[str] = []
    for override in (kept for part in parts for kept in part):
        group, sign, _ = override.partition("=")
        if sign and "." not in group:
            joined = [kept for kept in joined if not kept.startswith((f"{group}.", f"{group}="))]
        joined.append(override)
    return joined
