"""Copy a packaged job, recipe or option to a file of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftcli.config import paths
from ftcli.config.nearest import nearest
from ftcli.core.errors import UserError


def find(name: str) -> Path:
    """The file that a name means: `qlora_llama`, `bases/llama_mini`, `method/lora`, `lora`.

    Raises:
        UserError: there is none, or an option's name stands in several groups.
    """
    name = name.removesuffix(".yaml")
    for prefix in ("configs/", "recipes/"):
        name = name.removeprefix(prefix)
    known = {**paths.recipes(), **paths.jobs(paths.configs_dir())}
    grouped = {f"{g}/{o}": file for g in paths.groups() for o, file in paths.options(g).items()}
    if name in known or name in grouped:
        return known.get(name) or grouped[name]
    same = [full for full in grouped if full.partition("/")[2] == name]
    if len(same) == 1:
        return grouped[same[0]]
    if same:
        raise UserError(
            f"'{name}' is in several groups: {', '.join(same)}.", fix=f"ftcli cp {same[0]}"
        )
    near = nearest(name, [*known, *grouped, *(n.partition("/")[2] for n in grouped)])
    hint = f" Closest: {', '.join(near)}." if near else ""
    raise UserError(f"nothing is called '{name}'.{hint}", fix="ftcli ls")


def copy(name: str, destination: str, force: bool = False) -> tuple[Path, Path]:
    """Copy what `name` means to a file or into a folder; gives source and target.

    Raises:
        UserError: no such name, or the target exists and `force` is off.
    """
    source, target = find(name), Path(destination)
    if target.is_dir() or destination.endswith("/"):
        target = target / source.name
    elif not target.suffix:
        target = target.with_suffix(".yaml")
    if target.exists() and not force:
        raise UserError(f"{target} exists already.", fix="choose another name, or add --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return source, target
