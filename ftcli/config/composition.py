"""Compose a job with Hydra, and find out which line of which file set each value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftcli.config import (
    checks,
    environment,
    marks,
    mistakes,
    origins,
    paths,
    primary,
    requirements,
    sizes,
)
from ftcli.config import overrides as typed
from ftcli.config.composed import Composed, Origin
from ftcli.config.job import RECIPE
from ftcli.config.overrides import Word
from ftcli.config.primary import Primary
from ftcli.config.renamed import with_current_names
from ftcli.core.errors import Problems

environment.guard()


def compose(job: str | Path, overrides: Sequence[str] = ()) -> Composed:
    """Compose a job file with its groups and the overrides of a command line.

    Args:
        job: a YAML file, a run directory, or the name of a packaged job or recipe.
        overrides: Hydra's override grammar. `a.b=c` also sets a key that no YAML holds.

    Raises:
        UserError: a file, option, key or override that cannot be composed, with its file:line.
    """
    path = paths.find_job(job)
    try:
        return _composed_from(path, overrides)
    except RecursionError as error:
        raise marks.too_deep(path) from error


def _composed_from(path: Path, overrides: Sequence[str]) -> Composed:
    folders = paths.search_path(path.resolve().parent)
    words = typed.read(overrides, folders)
    source = Primary(path)
    sizes.refuse_huge_parts(path, words, folders)
    with _hydra(path.resolve().parent):
        config, defaults = _compose(source, words, folders)
    found = origins.find(defaults, source, words, folders)
    composed = _composed(config, found, path)
    composed.overrides = list(overrides)
    composed.jobs = origins.jobs(defaults, path, folders)
    composed.repicked = dict.fromkeys(source.overridden(), False)
    composed.repicked |= {w.key: True for w in words if w.picks and w.kind == "set"}
    if composed.get("model.from_recipe") is not None:
        from ftcli.config.base_recipe import resolve_base

        resolve_base(composed)
    requirements.derive(composed)
    return composed


def load(path: str | Path) -> Composed:
    """A file that is resolved already (`RUN/config.yaml`, or the run directory): read, not composed."""
    file = paths.find_job(path)
    config = marks.read(file)
    config.pop("defaults", None)
    found = marks.marks(file)
    plain = mistakes.resolved(config, lambda key: origins.nearest(found, key, file), file)
    composed = _with_name(origins.attach(with_current_names(plain), found, file))
    Problems.raise_if_any(list(checks.file_names(composed)))  # a stranger's run may name any place
    return composed


@contextmanager
def _hydra(folder: Path) -> Iterator[None]:
    """Hydra ready for one composition; whatever state the process had is put back."""
    others = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), job_name="ftcli", version_base=None):
            yield
    finally:
        ConfigStore.instance().repo.pop(f"{primary.NAME}.yaml", None)
        GlobalHydra.instance().hydra = others


def _compose(
    source: Primary, words: list[Word], folders: list[Path]
) -> tuple[DictConfig, list[Any]]:
    """Hydra's composition; groups that the defaults list lacks are added to it and tried again."""
    pending = list(words)
    for word in words:
        if word.picks and word.kind == "delete":  # `~eval`: the job's own keys of it go too
            source.drop(word.key)
    for _ in range(len(words) + 1):
        ConfigStore.instance().store(name=primary.NAME, node=source.node)
        texts = [source.search_override(pending, folders)]
        texts += [w.for_hydra() for w in pending if w.key != "hydra.searchpath"]
        try:
            config = hydra_compose(primary.NAME, texts, return_hydra_config=True)
            loader = GlobalHydra.instance().config_loader()
            return config, loader.compute_defaults_list(primary.NAME, texts, RunMode.RUN).defaults
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            absent = mistakes.absent_group(error, pending)
            if absent is None:
                raise mistakes.explained(error, source.path, words, folders) from error
            pending.remove(absent)
            if absent.kind != "delete":
                source.pick(absent)
    raise AssertionError("every group was added, none is left to add")


def _composed(config: DictConfig, found: dict[str, Origin], job: Path) -> Composed:
    known: dict[Any, Any] = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    for key in ("hydra", *RECIPE):
        config.pop(key, None)
    plain = mistakes.resolved(config, lambda key: origins.nearest(found, key, job), job)
    composed = origins.attach(with_current_names(plain), found, job)
    composed.choices = {
        str(group): option
        for group, option in known.items()
        if isinstance(option, str) and not str(group).startswith("hydra/")
    }
    return _with_name(composed)


def _with_name(composed: Composed) -> Composed:
    """`run.name` is the name of the job unless it is given, so that a resolved file keeps it."""
    run = composed.config.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") is None:
        run["name"] = paths.job_name(composed.job)
        composed.origins.setdefault("run.name", Origin(composed.job))
    return composed
