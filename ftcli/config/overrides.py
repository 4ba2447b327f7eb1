"""The words after the job on the command line: Hydra's grammar, made ready for Hydra."""

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
    """One override as typed, with what it asks for.

    Attributes:
        text: as typed.
        key: dotted key or group (`method.r`, `method`).
        value: as Hydra reads it.
        picks: whether it picks an option of a group (`method=lora`).
        kind: "set", "add" or "delete".
    """

    text: str
    key: str
    value: Any
    picks: bool
    kind: str

    @property
    def is_hydra(self) -> bool:
        """Whether it speaks to Hydra itself (`hydra.sweep.dir=...`)."""
        return self.key.startswith(("hydra.", "hydra/"))

    def to_hydra(self) -> str:
        """As Hydra wants it: a key that no YAML holds is set all the same, validation judges it."""
        plain = self.kind == "set" and not self.picks and not self.is_hydra
        return self.text if not plain or self.text.startswith("++") else f"++{self.text}"


def parse_overrides(texts: Sequence[str], folders: Sequence[Path]) -> list[Override]:
    """Parse overrides; `folders` tell which words are groups.

    Raises:
        UserError: not in the grammar, or several values where one is wanted; all of them together.
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
    picks = is_group and not isinstance(value, dict)
    is_name = isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )
    if picks and not parsed.is_delete() and not is_name:
        raise UserError(
            f"'{text}': {key} wants the name of an option.",
            where="command line",
            fix=f"{key}=NAME with a name of `ftcli ls {key}`, or ~{key} to leave it out",
        )
    kind = "delete" if parsed.is_delete() else "add" if parsed.is_add() else "set"
    return Override(text, key, value, picks, kind)


def format_override(key: str, value: Any) -> str:
    """`key=value` as the command line takes it: Hydra reads the value back, and a shell changes nothing."""
    return quote_for_shell(f"{key}={format_value(value)}")


def quote_for_shell(text: str) -> str:
    """A word as a shell leaves it alone."""
    if not set(text) & set(" '\"{}$*?;&|<>()`\\!#~"):
        return text
    if "'" in text and not set(text) & set('"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)


def is_valid_override(text: str) -> bool:
    """Whether a word is in the grammar."""
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def parse_value(text: str) -> Any:
    """A word as Hydra reads it in the place of a value; itself where it cannot."""
    override = f"k={text}"
    return (
        OverridesParser.create().parse_override(override).value()
        if is_valid_override(override)
        else text
    )


def format_value(value: Any) -> str:
    """A value in Hydra's grammar."""
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
    """Overrides one after the other; a later option of a group replaces its earlier keys.

    `method=full` behind `method.r=64` leaves no `r`, as in the job itself.
    """
    joined: list[str] = []
    for override in (kept for part in parts for kept in part):
        group, sign, _ = override.partition("=")
        if sign and "." not in group:
            joined = [kept for kept in joined if not kept.startswith((f"{group}.", f"{group}="))]
        joined.append(override)
    return joined
