"""The job as it is handed to Hydra: from memory, so that its file may be called anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from ftcli.config import marks
from ftcli.config.overrides import Word
from ftcli.core.errors import UserError

#: What Hydra calls it.
NAME = "_ftcli_job_"


class Primary:
    """The job as it is handed to Hydra: its own content, and a defaults list that may have grown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node = marks.read(path)
        self.own_defaults = self.node.get("defaults") is not None
        self.replaced: set[str] = set()
        if not self.own_defaults:
            self.node["defaults"] = ["_self_"]
            return
        if not isinstance(self.node.defaults, ListConfig):
            where = marks.marks(path)["defaults"]
            raise UserError("defaults must be a list: `- model: llama_mini`.", where=str(where))
        if "_self_" not in self.node.defaults:  # else Hydra would warn, and do the same
            self._insert("_self_", self._first_override())

    def pick(self, word: Word) -> None:
        """Take an option of a group that the defaults list lacks; it stands below the job's own keys.

        In a resolved file the group's keys are a complete other choice: they give way.
        """
        if not self.own_defaults:
            self.drop(word.key)
        self._insert({word.key: word.value}, self._position("_self_"))

    def overridden(self) -> list[str]:
        """Groups for which it chooses another option than the job it starts from."""
        entries: list[Any] = OmegaConf.to_container(self.node.defaults)  # type: ignore[assignment]
        keys = [str(k) for entry in entries if isinstance(entry, dict) for k in entry]
        return [key.removeprefix("override ") for key in keys if key.startswith("override ")]

    def drop(self, group: str) -> None:
        """Leave out the job's own keys of a group."""
        if group in self.node:
            self.node.pop(group)
            self.replaced.add(group)

    def _insert(self, item: Any, position: int) -> None:
        self.node.defaults.insert(position, item)

    def _position(self, name: str) -> int:
        entries = list(OmegaConf.to_container(self.node.defaults))  # type: ignore[arg-type]
        return entries.index(name) if name in entries else len(entries)

    def _first_override(self) -> int:
        entries: list[Any] = OmegaConf.to_container(self.node.defaults)  # type: ignore[assignment]
        for index, entry in enumerate(entries):
            if isinstance(entry, dict) and any(str(k).startswith("override ") for k in entry):
                return index
        return len(entries)

    def search_override(self, words: Sequence[Word], folders: Sequence[Path]) -> str:
        """The search path as an override: ours, then what the job or the command line adds."""
        own = OmegaConf.select(self.node, "hydra.searchpath", default=None) or []
        asked = next((w.value for w in words if w.key == "hydra.searchpath"), own)
        for entry in asked if isinstance(asked, (list, ListConfig)) else [asked]:
            if not isinstance(entry, str) or "://" in entry and not entry.startswith("file://"):
                raise UserError(  # pkg:// would import the package
                    f"hydra.searchpath={entry}: only folders are looked into.",
                    where=str(marks.marks(self.path).get("hydra.searchpath", "command line")),
                    fix="hydra.searchpath=[file:///path/to/configs]",
                )
        entries = [f"file://{folder}" for folder in folders[1:]] + [str(entry) for entry in asked]
        return f"hydra.searchpath=[{','.join(map(_quoted, entries))}]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
