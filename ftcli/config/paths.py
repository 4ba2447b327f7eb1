"""Where configurations are looked for: the job's folder, the user's, the working folder's, ftcli's own."""

from __future__ import annotations

import os
from pathlib import Path

from ftcli.config.nearest import nearest
from ftcli.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
#: Groups whose plural, as `ftcli ls` takes it, is not the name and an s.
_PLURALS = {"data": "data", "penalty": "penalties"}


#: File of a paper's recipe, in a folder of the paper's name.
RECIPE = "recipe.yaml"
#: Folders of recipes that are no paper's.
SHARED = ("bases", "comparisons")


def configs_dir() -> Path:
    """The packaged configs: `configs/` of the repository, or its copy in an installed wheel."""
    return _packaged("configs")


def recipes_dir() -> Path:
    """The packaged recipes, found as `configs_dir` is."""
    return _packaged("recipes")


def _packaged(name: str) -> Path:
    in_wheel = _PACKAGE / f"_{name}"
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


def user_dir() -> Path:
    """The user's own configs: $FTCLI_CONFIGS, or ~/.config/ftcli/configs."""
    given = os.environ.get("FTCLI_CONFIGS")
    return Path(given).expanduser() if given else Path.home() / ".config" / "ftcli" / "configs"


def cache_folder(name: str) -> Path:
    """What can be made again: a folder of $FTCLI_CACHE, or of ~/.cache/ftcli."""
    given = os.environ.get("FTCLI_CACHE")
    root = Path(given).expanduser() if given else Path.home() / ".cache" / "ftcli"
    return root / name


def search_path(job_folder: Path | None = None) -> list[Path]:
    """Existing folders that hold groups, in the order in which they are asked."""
    asked = [job_folder, user_dir(), Path("configs"), *packaged_folders()]
    found = [folder.resolve() for folder in asked if folder is not None and folder.is_dir()]
    return list(dict.fromkeys(found))


def packaged_folders() -> list[Path]:
    """Folders of groups that ship: the general one, then those of what only one paper has."""
    return [configs_dir(), *sorted(recipes_dir().glob("*/configs"))]


def groups() -> list[str]:
    """Names of the packaged groups: the folders of `configs/`."""
    return sorted(p.name for p in configs_dir().iterdir() if p.is_dir() and p.name[0] not in "._")


def group_of(word: str) -> str | None:
    """The group that a word of the command line means: `methods` and `method` are the same."""
    for group in groups():
        if word in (group, plural(group)):
            return group
    return None


def plural(group: str) -> str:
    """The group as `ftcli ls` takes it: `method` is `methods`."""
    return _PLURALS.get(group, f"{group}s")


def options(group: str, folders: list[Path] | None = None) -> dict[str, Path]:
    """Option -> file of a group (`lora` -> `configs/method/lora.yaml`); the first folder wins."""
    found: dict[str, Path] = {}
    for folder in search_path() if folders is None else folders:
        root = folder / group
        for file in sorted(root.rglob("*.yaml")):
            found.setdefault(file.relative_to(root).with_suffix("").as_posix(), file)
    return dict(sorted(found.items()))


def jobs(root: Path) -> dict[str, Path]:
    """Name -> file of the jobs that stand in a folder of configs, groups left out."""
    return {file.stem: file for file in sorted(root.glob("*.yaml"))}


def recipes() -> dict[str, Path]:
    """Name -> file of the packaged recipes: `qlora`, `bases/llama_mini`."""
    root = recipes_dir()
    papers = {file.parent.name: file for file in root.glob(f"*/{RECIPE}")}
    others = [file for folder in SHARED for file in (root / folder).glob("*.yaml")]
    named = {file.relative_to(root).with_suffix("").as_posix(): file for file in others}
    return dict(sorted({**papers, **named}.items()))


def job_name(file: Path) -> str:
    """What a job is called: its file's name; a paper's recipe is called as its folder."""
    return file.resolve().parent.name if file.name == RECIPE else file.stem


def find_job(job: str | Path) -> Path:
    """The YAML that a word means: a path, a run directory, or the name of a packaged job or recipe.

    Raises:
        UserError: there is no such file; names the nearest ones.
    """
    if not str(job).strip() or "\0" in str(job):
        raise UserError(f"{str(job)!r} is no name of a job.", fix="ftcli ls jobs")
    path = _expanded(job)
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file():
        return path
    known = {**recipes(), **jobs(configs_dir()), **jobs(user_dir())}
    name = path.with_suffix("").as_posix() if path.suffix in (".yaml", ".yml") else path.as_posix()
    for prefix in ("", "configs/", "recipes/"):
        if name.startswith(prefix) and name.removeprefix(prefix) in known:
            return known[name.removeprefix(prefix)]
    same = [file for full, file in recipes().items() if full.rpartition("/")[2] == name]
    if len(same) == 1:
        return same[0]
    if path.is_dir():
        raise _folder(path, str(job))
    near = _closest(path, known)
    what = f"{job}: no such file or job." + (f" Closest: {', '.join(near)}." if near else "")
    raise UserError(what, fix=f"{near[0]}, or one of: ftcli ls jobs" if near else "ftcli ls jobs")


def _folder(path: Path, job: str) -> UserError:
    """For a folder that is no run: the jobs that lie in it, or the newest runs below it."""
    files = [str(file) for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")])]
    runs = sorted([*path.glob("*/config.yaml"), *path.glob("*/*/config.yaml")], reverse=True)
    inside = files or [str(file.parent) for file in runs]
    what = f"{job} is a folder without a config.yaml."
    if not inside:
        return UserError(what, fix="give a YAML file, or one of: ftcli ls jobs")
    return UserError(f"{what} It holds {', '.join(inside[:5])}.", fix=inside[0])


def _expanded(job: str | Path) -> Path:
    """The path, `~` filled in where there is such a user."""
    try:
        return Path(job).expanduser()
    except RuntimeError:
        return Path(job)


def _closest(path: Path, known: dict[str, Path]) -> list[str]:
    beside = {str(p): p for p in path.parent.glob("*.yaml")} if path.parent.is_dir() else {}
    short = [name.rpartition("/")[2] for name in known]
    return nearest(str(path), [*beside]) or nearest(path.stem, [*dict.fromkeys([*known, *short])])


def shown(path: Path) -> str:
    """A path as a person writes it: relative to the working folder, or `configs/...` if packaged."""
    full = path.resolve()
    for root, prefix in ((Path.cwd(), ""), (configs_dir(), "configs"), (recipes_dir(), "recipes")):
        if full.is_relative_to(root.resolve()):
            return (Path(prefix) / full.relative_to(root.resolve())).as_posix()
    return str(path)


def found(name: str) -> Path | None:
    """The file that `shown` wrote so."""
    packaged = {"configs": configs_dir(), "recipes": recipes_dir()}
    top, _, rest = name.partition("/")
    tries = [Path(name)] + ([packaged[top] / rest] if top in packaged else [])
    return next((file for file in tries if file.is_file()), None)
