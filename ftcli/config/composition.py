"""Compose a job with Hydra, and find out which line of which file set each value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftcli.config import marks, mistakes, overrides, paths
from ftcli.config.composed import COMMAND_LINE, Composed, Origin, leaves
from ftcli.config.overrides import Word

#: The job is handed to Hydra under this name, from memory: its file may be called anything.
PRIMARY = "_ftcli_job_"


def compose(job: str | Path, overrides: Sequence[str] = ()) -> Composed:
    """Compose a job file with its groups and the overrides of a command line.

    Args:
        job: a YAML file, a run directory, or the name of a packaged job or recipe.
        overrides: Hydra's override grammar. `a.b=c` also sets a key that no YAML holds.

    Raises:
        UserError: a file, option, key or override that cannot be composed, with its file:line.
    """
    path = paths.find_job(job)
    folders = paths.search_path(path.resolve().parent)
    words = _words(overrides, folders)
    source = _Source(path)
    with _hydra(path.resolve().parent):
        config, defaults = _compose(source, words, folders)
    return _composed(config, defaults, source, words, folders, list(overrides))


def load(path: str | Path) -> Composed:
    """A file that is resolved already (`RUN/config.yaml`, or the run directory): read, not composed."""
    file = paths.find_job(path)
    config = marks.read(file)
    config.pop("defaults", None)
    plain = mistakes.resolved(config, lambda key: str(found.get(key, Origin(file))), file)
    found = marks.marks(file)
    return _with_name(_split(plain, found, file))


def _words(texts: Sequence[str], folders: list[Path]) -> list[Word]:
    return overrides.read(texts, folders)


class _Source:
    """The job as it is handed to Hydra: its own content, and a defaults list that may have grown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node = marks.read(path)
        self.own_defaults = self.node.get("defaults") is not None
        self.replaced: set[str] = set()
        if not self.own_defaults:
            self.node["defaults"] = ["_self_"]
        elif isinstance(self.node.defaults, ListConfig) and "_self_" not in self.node.defaults:
            self._insert("_self_", self._first_override())

    def pick(self, word: Word) -> None:
        """Take an option of a group that the defaults list lacks; it stands below the job's own keys.

        In a resolved file the group's keys are a complete other choice: they give way.
        """
        if not self.own_defaults:
            self.drop(word.key)
        self._insert({word.key: word.value}, self._position("_self_"))

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

    def search(self) -> list[str]:
        """What the job itself adds to the search path (`hydra: {searchpath: [...]}`)."""
        found = OmegaConf.select(self.node, "hydra.searchpath", default=[])
        return [str(entry) for entry in found or []]


@contextmanager
def _hydra(folder: Path) -> Iterator[None]:
    """Hydra ready for one composition; whatever state the process had is put back."""
    others = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), job_name="ftcli", version_base=None):
            yield
    finally:
        ConfigStore.instance().repo.pop(f"{PRIMARY}.yaml", None)
        GlobalHydra.instance().hydra = others


def _compose(
    source: _Source, words: list[Word], folders: list[Path]
) -> tuple[DictConfig, list[Any]]:
    """Hydra's composition; groups that the defaults list lacks are added to it and tried again."""
    pending = list(words)
    for word in words:
        if word.picks and word.kind == "delete":  # `~eval`: the job's own keys of it go too
            source.drop(word.key)
    for _ in range(len(words) + 1):
        ConfigStore.instance().store(name=PRIMARY, node=source.node)
        texts = [_search_override(source, pending, folders)]
        texts += [w.for_hydra() for w in pending if w.key != "hydra.searchpath"]
        try:
            config = hydra_compose(PRIMARY, texts, return_hydra_config=True)
            loader = GlobalHydra.instance().config_loader()
            return config, loader.compute_defaults_list(PRIMARY, texts, RunMode.RUN).defaults
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            absent = mistakes.absent_group(error, pending)
            if absent is None:
                raise mistakes.explained(error, source.path, words, folders) from error
            pending.remove(absent)
            if absent.kind != "delete":
                source.pick(absent)
    raise AssertionError("every group was added, none is left to add")


def _search_override(source: _Source, words: list[Word], folders: list[Path]) -> str:
    asked = next((w.value for w in words if w.key == "hydra.searchpath"), source.search())
    entries = [f"file://{folder}" for folder in folders[1:]] + [str(entry) for entry in asked]
    quoted = ",".join(
        "'" + entry.replace("\\", "\\\\").replace("'", "\\'") + "'" for entry in entries
    )
    return f"hydra.searchpath=[{quoted}]"


def _composed(
    config: DictConfig,
    defaults: list[Any],
    source: _Source,
    words: list[Word],
    folders: list[Path],
    typed: list[str],
) -> Composed:
    known: dict[Any, Any] = dict(config.hydra.runtime.choices)
    choices = {
        str(group): option
        for group, option in known.items()
        if isinstance(option, str) and not str(group).startswith("hydra/")
    }
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    found = _origins(defaults, source, words, folders)
    plain = mistakes.resolved(
        config, lambda key: _nearest_origin(found, key, source.path), source.path
    )
    composed = _split(plain, found, source.path)
    composed.overrides, composed.choices = typed, choices
    composed.repicked = frozenset(w.key for w in words if w.picks and w.kind == "set")
    return _with_name(composed)


def _origins(
    defaults: Iterable[Any], source: _Source, words: list[Word], folders: list[Path]
) -> dict[str, Origin]:
    """Dotted key -> who set it last, in the order in which Hydra merged the files."""
    found: dict[str, Origin] = {}
    for default in defaults:
        name = default.config_path
        if name.startswith("hydra/"):
            continue
        if name == PRIMARY:
            kept = {
                key: origin
                for key, origin in marks.marks(source.path).items()
                if key.split(".")[0] not in source.replaced
            }
            found.update(kept)
        elif file := _file(name, folders):
            prefix = f"{default.package}." if default.package else ""
            found[default.package] = Origin(file)
            found.update({prefix + key: origin for key, origin in marks.marks(file).items()})
    for word in words:
        if not word.picks and word.kind != "delete":
            _set(found, word.key, word.value)
    return found


def _set(found: dict[str, Origin], key: str, value: Any) -> None:
    found[key] = COMMAND_LINE
    parent = key.rpartition(".")[0]
    while parent and parent not in found:  # a mapping that no file opened
        found[parent] = COMMAND_LINE
        parent = parent.rpartition(".")[0]
    if isinstance(value, dict):
        found.update({inner: COMMAND_LINE for inner, _ in leaves({key: value})})


def _file(name: str, folders: list[Path]) -> Path | None:
    name = name if name.endswith(".yaml") else f"{name}.yaml"
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _nearest_origin(found: dict[str, Origin], key: str, job: Path) -> str:
    while key and key not in found:
        key = key.rpartition(".")[0]
    return str(found.get(key, Origin(job)))


def _split(plain: dict[str, Any], found: dict[str, Origin], job: Path) -> Composed:
    """Keep the origins of what is in the configuration, leaves and mappings apart."""
    keys = {key for key, _ in leaves(plain)}
    sections = {key: origin for key, origin in found.items() if key not in keys}
    composed = Composed(plain, {}, job, sections=sections)
    items = {k.rpartition(".")[0] for k, o in found.items() if o == COMMAND_LINE}
    for key, value in leaves(plain):
        if isinstance(value, list) and key in items:  # `metrics.0=bleu`
            composed.origins[key] = COMMAND_LINE
        else:
            composed.origins[key] = found.get(key) or composed.origin(key)
    return composed


def _with_name(composed: Composed) -> Composed:
    """`run.name` is the name of the job unless it is given, so that a resolved file keeps it."""
    run = composed.config.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") is None:
        run["name"] = composed.job.stem
        composed.origins.setdefault("run.name", Origin(composed.job))
    return composed
