"""Compose a job with Hydra, with the file and line that set each value.

Base models may be recipes: `model.from_recipe: bases/NAME` stands for the `model.path` of what that recipe
trains, once on this machine; its run directory is found by the hash of its configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from ftcli.config import paths
from ftcli.config.checks import check_file_names, derive_keys
from ftcli.config.hydra_errors import explain_error, find_absent_group, resolve_interpolations
from ftcli.config.hydra_loader import Composition, compose_by_hydra
from ftcli.config.job import RECIPE_KEYS, ComposedJob, Origin
from ftcli.config.overrides import Override, parse_overrides
from ftcli.config.paths import cache_folder, get_job_name
from ftcli.config.primary_config import (
    PRIMARY_NAME,
    PrimaryConfig,
    attach_origins,
    find_origin,
    find_origins,
    list_job_files,
    refuse_huge_defaults,
)
from ftcli.config.renamed import replace_old_names, update_old_config
from ftcli.config.yaml_locations import locate_keys, make_depth_error, read_yaml
from ftcli.core.errors import Problems
from ftcli.core.redaction import is_secret_variable

#: Key of `model` that names the recipe of a base.
BASE_KEY = "from_recipe"


def register_environment_resolver() -> None:
    """Replace OmegaConf's `oc.env` by a resolver that refuses variables with names of secrets.

    A file could otherwise send a secret elsewhere.
    """
    OmegaConf.register_new_resolver("oc.env", _read_variable, replace=True)


def _read_variable(name: str, *default: Any) -> Any:
    if is_secret_variable(str(name)):
        raise PermissionError(
            f"{name} has a name of a secret, which a configuration may not read. Libraries take "
            "their keys from the environment by themselves"
        )
    return oc.env(name, *default)


register_environment_resolver()


def compose(job: str | Path, overrides: Sequence[str] = ()) -> ComposedJob:
    """Compose a job file with its groups and the overrides of a command line.

    Args:
        job: a YAML file, a run directory, or the name of a packaged job or recipe.
        overrides: Hydra's override grammar. `a.b=c` also sets a key that no YAML holds.

    Raises:
        UserError: a file, option, key or override that cannot be composed, with its file:line.
    """
    path = paths.find_job(job)
    try:
        return _compose_file(path, overrides)
    except RecursionError as error:
        raise make_depth_error(path) from error


def _compose_file(path: Path, overrides: Sequence[str]) -> ComposedJob:
    folders = paths.build_search_path(path.resolve().parent)
    parsed = parse_overrides(overrides, folders)
    primary = PrimaryConfig(path)
    refuse_huge_defaults(path, parsed, folders)
    composition = _compose_with_hydra(primary, parsed, folders)
    locations = find_origins(composition.defaults, primary, parsed, folders)
    composed = _make_composed_job(composition, locations, path)
    composed.overrides = list(overrides)
    composed.job_files = list_job_files(composition.defaults, path, folders)
    composed.overridden_groups = dict.fromkeys(primary.list_overridden_groups(), False)
    composed.overridden_groups |= {
        w.key: True for w in parsed if w.selects_option and w.kind == "set"
    }
    if composed.get("model.from_recipe") is not None:
        resolve_base(composed)
    derive_keys(composed)
    return composed


def load(path: str | Path) -> ComposedJob:
    """Read a configuration that is resolved already: `RUN/config.yaml`, or its run directory."""
    file = paths.find_job(path)
    config = read_yaml(file)
    config.pop("defaults", None)
    locations = locate_keys(file)
    plain = resolve_interpolations(config, lambda key: find_origin(locations, key, file), file)
    composed = _set_run_name(attach_origins(update_old_config(plain), locations, file))
    # the run may come from someone else, and name any path
    Problems.raise_if_any(list(check_file_names(composed)))
    return composed


def _compose_with_hydra(
    primary: PrimaryConfig, overrides: list[Override], folders: list[Path]
) -> Composition:
    """Compose with Hydra; groups missing from the defaults list are added, then it composes again."""
    pending = list(overrides)
    for override in overrides:
        # `~eval` also removes the job's own keys of it
        if override.selects_option and override.kind == "delete":
            primary.drop_group(override.key)
    for _ in range(len(overrides) + 1):
        texts = [primary.format_search_path(pending, folders)]
        texts += [override.to_hydra() for override in pending if override.key != "hydra.searchpath"]
        with_hydra = primary.names_hydra() or any(o.key.startswith("hydra") for o in pending)
        folder = primary.path.resolve().parent
        try:
            return compose_by_hydra(PRIMARY_NAME, primary.node, texts, folder, with_hydra)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            missing = find_absent_group(error, pending)
            if missing is None:
                raise explain_error(error, primary.path, overrides, folders) from error
            pending.remove(missing)
            if missing.kind != "delete":
                primary.add_choice(missing)
    raise AssertionError("every group was added, none is left to add")


def _make_composed_job(
    composition: Composition, locations: dict[str, Origin], job_file: Path
) -> ComposedJob:
    config = composition.config
    for key in ("hydra", *RECIPE_KEYS):
        config.pop(key, None)
    plain = resolve_interpolations(
        config, lambda key: find_origin(locations, key, job_file), job_file
    )
    composed = attach_origins(replace_old_names(plain), locations, job_file)
    composed.choices = {
        str(group): option
        for group, option in composition.choices.items()
        if isinstance(option, str) and not str(group).startswith("hydra/")
    }
    return _set_run_name(composed)


def _set_run_name(composed: ComposedJob) -> ComposedJob:
    """Set `run.name` to the name of the job unless it is set, so that the resolved file keeps it."""
    run = composed.config.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") is None:
        run["name"] = paths.get_job_name(composed.job_file)
        composed.origins.setdefault("run.name", Origin(composed.job_file))
    return composed


def base_cache_dir() -> Path:
    """Return the folder of trained bases: $FTCLI_CACHE/bases, or ~/.cache/ftcli/bases."""
    return cache_folder("bases")


def resolve_base(composed: ComposedJob) -> None:
    """Replace `model.from_recipe` by the path of the base, which may not be trained yet."""
    model = composed.config.get("model")
    if not isinstance(model, dict) or BASE_KEY not in model:
        return
    composed.base_job = str(model.pop(BASE_KEY))
    origin = composed.origin(f"model.{BASE_KEY}")
    composed.drop_origins(f"model.{BASE_KEY}")
    model["path"] = str(locate_base_run(compose_base(composed.base_job)) / "model")
    composed.origins["model.path"] = origin


def compose_base(name: str) -> ComposedJob:
    """Compose and validate the job that trains a base."""
    from ftcli.config.validation import validate_and_convert

    composed = compose(name)
    validate_and_convert(composed)
    return composed


def locate_base_run(base: ComposedJob) -> Path:
    """Return the run directory of a base, which its configuration determines."""
    from ftcli.core.config_hash import config_hash

    return base_cache_dir() / f"{get_job_name(base.job_file)}-{config_hash(base.config)}"


def is_base_trained(composed: ComposedJob) -> bool:
    """Whether the base of a job is trained already, or the job needs none."""
    return composed.base_job is None or Path(composed.config["model"]["path"]).is_dir()


def substitute_base(composed: ComposedJob) -> dict[str, Any]:
    """Return the job's configuration, with a model that exists in place of a base that is not trained yet.

    That model is the one from which the training of the base starts. Its shapes, tokenizer and layers are
    those of the trained base, because `method=full` keeps them.
    """
    config: dict[str, Any] = composed.config
    if composed.base_job is None or is_base_trained(composed):
        return config
    model_keys = {key: value for key, value in config["model"].items() if key != "path"}
    return {
        **config,
        "model": {**substitute_base(compose_base(composed.base_job))["model"], **model_keys},
    }


def count_base_steps(composed: ComposedJob) -> int | None:
    """Number of steps that the base of a job is trained for, where its recipe gives one."""
    if composed.base_job is None:
        return None
    steps = compose_base(composed.base_job).get("trainer.max_steps")
    return steps if isinstance(steps, int) else None
