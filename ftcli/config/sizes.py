"""Files that would stand for more than a machine holds: refused before anything expands them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ftcli.config import marks, paths
from ftcli.config.overrides import Word
from ftcli.core.errors import UserError

#: Values that a file may stand for; the longest job or recipe that ships has about 2,000.
MOST = 100_000


def refuse_huge(path: Path) -> None:
    """Refuse aliases of aliases: a file of ten lines may stand for a thousand million values.

    Raises:
        UserError: more than `MOST` values, an alias inside what it stands for, or no end of depth.
    """
    sizes: dict[int, int] = {}

    def size(node: Any, above: frozenset[int]) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in above:
            raise UserError(
                "an alias stands inside what it names, without end.",
                where=f"{paths.shown(path)}:{node.start_mark.line + 1}",
                fix="write the values out",
            )
        if id(node) not in sizes:
            parts = [part for entry in node.value for part in _parts(entry)]
            sizes[id(node)] = 1 + sum(size(part, above | {id(node)}) for part in parts)
        return sizes[id(node)]

    try:
        count = size(marks.tree(path), frozenset())
    except RecursionError as error:
        raise marks.too_deep(path) from error
    if count > MOST:
        what = f"stands for {count:,} values, more than {MOST:,}."
        raise UserError(what, paths.shown(path), "write fewer aliases (`*name`)")


def refuse_huge_parts(job: Path, words: Sequence[Word], folders: Sequence[Path]) -> None:
    """The same for every file that the job's defaults lists and the command line name, as Hydra reads
    them by itself; packaged ones are left out.

    Raises:
        UserError: as `refuse_huge`.
    """
    ours = (paths.configs_dir().resolve(), paths.recipes_dir().resolve())
    asked = list(_named(job, ""))
    asked += [f"{w.key}/{option}" for w in words if w.picks for option in _listed(w.value)]
    seen: set[Path] = set()
    while asked:
        name = asked.pop()
        found = (folder / f"{name.removesuffix('.yaml')}.yaml" for folder in folders)
        file = next((file for file in found if file.is_file()), None)
        if file is None or file in seen or any(file.is_relative_to(root) for root in ours):
            continue
        seen.add(file)
        refuse_huge(file)
        asked += _named(file, name.rpartition("/")[0])


def _named(file: Path, group: str) -> Iterator[str]:
    """What the defaults list of a file asks for: `other_job`, `method/lora`."""
    root = marks.tree(file)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            for entry in value.value:
                yield from (f"{group}/{name}".lstrip("/") for name in _entry(entry))
                yield from _entry(entry)


def _entry(entry: Any) -> Iterator[str]:
    if isinstance(entry, yaml.ScalarNode):
        yield str(entry.value).split("@")[0].lstrip("/")
    for key, value in entry.value if isinstance(entry, yaml.MappingNode) else ():
        words = str(key.value).split("@")[0].split()
        options = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for option in options if words else ():
            yield f"{words[-1].lstrip('/')}/{option.value}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parts(entry: Any) -> tuple[Any, ...]:
    """Key and value of a mapping's entry; an item of a list."""
    return entry if isinstance(entry, tuple) else (entry,)
