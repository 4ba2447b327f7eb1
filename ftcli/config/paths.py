"""Find jobs, recipes and options: beside the job, in the user's folder, the working folder, and in ftcli."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from ftcli.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
#: Groups whose plural, as `ftcli ls` takes it, is not the name with an s.
_PLURALS = {"data": "data", "penalty": "penalties"}
#: File of a paper's recipe, in a folder of the paper's name.
RECIPE_FILE = "recipe.yaml"
#: Folders of recipes without a paper.
SHARED_FOLDERS = ("bases", "comparisons")


def configs_dir() -> Path:
    """Return the packaged configs: `configs/` of the repository, or its copy in an installed wheel."""
    return _find_packaged("configs")


def recipes_dir() -> Path:
    """Return the packaged recipes: `recipes/` of the repository, or its copy in an installed wheel."""
    return _find_packaged("recipes")


def _find_packaged(name: str) -> Path:
    in_wheel = _PACKAGE / f"_{name}"
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


def user_dir() -> Path:
    """Return the folder of the user's configs: $FTCLI_CONFIGS, or ~/.config/ftcli/configs."""
    folder = os.environ.get("FTCLI_CONFIGS")
    return Path(folder).expanduser() if folder else Path.home() / ".config" / "ftcli" / "configs"


def cache_folder(name: str) -> Path:
    """Return a folder of the cache: of $FTCLI_CACHE, or of ~/.cache/ftcli."""
    folder = os.environ.get("FTCLI_CACHE")
    root = Path(folder).expanduser() if folder else Path.home() / ".cache" / "ftcli"
    return root / name


def build_search_path(job_folder: Path | None = None) -> list[Path]:
    """Return the existing folders that hold groups, in the order in which they are searched."""
    folders = [job_folder, user_dir(), Path("configs"), *list_packaged_folders()]
    existing = [folder.resolve() for folder in folders if folder is not None and folder.is_dir()]
    return list(dict.fromkeys(existing))


def list_packaged_folders() -> list[Path]:
    """Return the packaged folders of groups: the general one, then those of single papers."""
    return [configs_dir(), *sorted(recipes_dir().glob("*/configs"))]


def list_groups() -> list[str]:
    """Return the names of the packaged groups: the folders of `configs/`."""
    return sorted(p.name for p in configs_dir().iterdir() if p.is_dir() and p.name[0] not in "._")


def find_group(word: str) -> str | None:
    """Return the group that a word names, in the singular or plural (`methods`); None for other words."""
    for group in list_groups():
        if word in (group, pluralize_group(group)):
            return group
    return None


def pluralize_group(group: str) -> str:
    """Return the plural of a group, as `ftcli ls` takes it: `methods` for `method`."""
    return _PLURALS.get(group, f"{group}s")


def list_options(group: str, folders: list[Path] | None = None) -> dict[str, Path]:
    """Return the options of a group: `lora` -> `configs/method/lora.yaml`; the first folder wins."""
    options: dict[str, Path] = {}
    for folder in build_search_path() if folders is None else folders:
        root = folder / group
        for file in sorted(root.rglob("*.yaml")):
            options.setdefault(file.relative_to(root).with_suffix("").as_posix(), file)
    return dict(sorted(options.items()))


def list_jobs(root: Path) -> dict[str, Path]:
    """Return the jobs in a folder of configs: name -> file; its groups are left out."""
    return {file.stem: file for file in sorted(root.glob("*.yaml"))}


def list_recipes() -> dict[str, Path]:
    """Return the packaged recipes: name (`qlora`, `bases/llama_mini`) -> file."""
    root = recipes_dir()
    papers = {file.parent.name: file for file in root.glob(f"*/{RECIPE_FILE}")}
    others = [file for folder in SHARED_FOLDERS for file in (root / folder).glob("*.yaml")]
    named = {file.relative_to(root).with_suffix("").as_posix(): file for file in others}
    return dict(sorted({**papers, **named}.items()))


def get_job_name(file: Path) -> str:
    """Return the name of a job: that of its file, for a paper's recipe that of its folder."""
    return file.resolve().parent.name if file.name == RECIPE_FILE else file.stem


def find_job(job: str | Path) -> Path:
    """Return the YAML file of a path, a run directory, or the name of a packaged job or recipe.

    Raises:
        UserError: there is no such file; names the nearest ones.
    """
    if not str(job).strip() or "\0" in str(job):
        raise UserError(f"{str(job)!r} is not the name of a job.", fix="ftcli ls jobs")
    path = _expand_user(job)
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file():
        return path
    known = {**list_recipes(), **list_jobs(configs_dir()), **list_jobs(user_dir())}
    name = path.with_suffix("").as_posix() if path.suffix in (".yaml", ".yml") else path.as_posix()
    for prefix in ("", "configs/", "recipes/"):
        if name.startswith(prefix) and name.removeprefix(prefix) in known:
            return known[name.removeprefix(prefix)]
    matches = [file for full, file in list_recipes().items() if full.rpartition("/")[2] == name]
    if len(matches) == 1:
        return matches[0]
    if path.is_dir():
        raise _explain_folder(path, str(job))
    near = _find_closest(path, known)
    what = f"{job}: no such file or job." + (f" Closest: {', '.join(near)}." if near else "")
    raise UserError(what, fix=f"{near[0]}, or one of: ftcli ls jobs" if near else "ftcli ls jobs")


def _explain_folder(path: Path, job: str) -> UserError:
    """Return the error for a folder that is no run; names its jobs, or the newest runs below it."""
    files = [str(file) for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")])]
    runs = sorted([*path.glob("*/config.yaml"), *path.glob("*/*/config.yaml")], reverse=True)
    inside = files or [str(file.parent) for file in runs]
    what = f"{job} is a folder without a config.yaml."
    if not inside:
        return UserError(what, fix="give a YAML file, or one of: ftcli ls jobs")
    return UserError(f"{what} It holds {', '.join(inside[:5])}.", fix=inside[0])


def _expand_user(job: str | Path) -> Path:
    """Return the path with `~` expanded, unchanged where there is no such user."""
    try:
        return Path(job).expanduser()
    except RuntimeError:
        return Path(job)


def _find_closest(path: Path, known: dict[str, Path]) -> list[str]:
    beside = {str(p): p for p in path.parent.glob("*.yaml")} if path.parent.is_dir() else {}
    short = [name.rpartition("/")[2] for name in known]
    return find_nearest(str(path), [*beside]) or find_nearest(
        path.stem, [*dict.fromkeys([*known, *short])]
    )


def format_path(path: Path) -> str:
    """Format a path: relative to the working folder, as `configs/...` or `recipes/...` if packaged."""
    full = path.resolve()
    for root, prefix in ((Path.cwd(), ""), (configs_dir(), "configs"), (recipes_dir(), "recipes")):
        if full.is_relative_to(root.resolve()):
            return (Path(prefix) / full.relative_to(root.resolve())).as_posix()
    return str(path)


def find_formatted_path(name: str) -> Path | None:
    """Return the file of a path that `format_path` formatted; None where it does not exist."""
    packaged = {"configs": configs_dir(), "recipes": recipes_dir()}
    top, _, rest = name.partition("/")
    tries = [Path(name)] + ([packaged[top] / rest] if top in packaged else [])
    return next((file for file in tries if file.is_file()), None)


def find_nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` known names similar to `word`, the nearest first."""
    names = sorted(set(known))
    lowered = {name.lower(): name for name in reversed(names)}
    matches = difflib.get_close_matches(word.lower(), lowered, count, 0.6)
    return [lowered[name] for name in matches]
