"""What composing gives: a plain configuration in which every value knows who set it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """Who set a value: a line of a file, or (`file` None) the command line."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "command line"
        from ftcli.config.paths import shown

        return shown(self.file) if self.line is None else f"{shown(self.file)}:{self.line}"


COMMAND_LINE = Origin()


@dataclass
class Composed:
    """A job after composition.

    Attributes:
        config: plain nested dict, interpolations resolved; `???` stays until validation.
        origins: dotted key of every leaf (lists are leaves) -> who set it.
        job: the YAML that was given.
        overrides: what followed it on the command line, as typed.
        choices: group -> option that was composed (`method` -> `lora`); empty for a resolved file.
        sections: dotted key of every mapping -> the place that opened it last.
        repicked: groups whose option was chosen over a job's own choice -> whether by the command
            line (True) or by the given job over the one it starts from (False).
        base: recipe of a base model that must be trained before (`model.from_recipe`).
        jobs: files that were merged as jobs: the given one and those it starts from.
    """

    config: dict[str, Any]
    origins: dict[str, Origin]
    job: Path
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    sections: dict[str, Origin] = field(default_factory=dict)
    repicked: dict[str, bool] = field(default_factory=dict)
    jobs: frozenset[Path] = frozenset()
    base: str | None = None

    def origin(self, key: str) -> Origin:
        """Who set a key; for one that nobody set, who opened the mapping it would stand in."""
        while key:
            found = self.origins.get(key) or self.sections.get(key)
            if found:
                return found
            key = key.rpartition(".")[0]
        return Origin(self.job)

    def where(self, key: str) -> str:
        """`configs/my.yaml:14` or `command line`."""
        return str(self.origin(key))

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    def forget(self, key: str) -> None:
        """Drop the origins of a key that is no longer in the configuration."""
        for kept in (self.origins, self.sections):
            for name in [n for n in kept if n == key or n.startswith(f"{key}.")]:
                del kept[name]

    def named(self, group: str) -> str:
        """A group as the user would write it: `method=lora`, or `method` where no option is known."""
        option = self.choices.get(group)
        return f"{group}={option}" if option else group


def leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is not a mapping with content; lists are leaves."""
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, key)
        else:
            yield key, value
