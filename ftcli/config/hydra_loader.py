"""Compose with Hydra's loader, without Hydra's configuration of itself and without its global state.

`hydra.compose` also composes launcher, logging and folders of Hydra, which takes most of its time and would be
removed here, and it does not return the defaults list: `compute_defaults_list` reads all files again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf

SEARCH_PATH = "hydra.searchpath"
setup_globals()  # the resolvers that Hydra brings: `${now:%Y}`


@dataclass(frozen=True)
class Composition:
    """A configuration as Hydra composed it.

    Attributes:
        config: the merged configuration, interpolations not resolved; open to further keys.
        defaults: the configs that were merged, in order.
        choices: group -> option.
    """

    config: DictConfig
    defaults: list[ResultDefault]
    choices: dict[str, Any]


def compose_by_hydra(
    name: str, node: DictConfig, overrides: Sequence[str], folder: Path, with_hydra: bool
) -> Composition:
    """Compose a primary config that lies in memory.

    Args:
        name: name of the primary config, which no file has.
        node: its content.
        overrides: in Hydra's grammar; `hydra.searchpath` is where options are looked for beside `folder`.
        with_hydra: whether to compose Hydra's configuration of itself, for jobs and overrides that name it.

    Raises:
        HydraException, OmegaConfBaseException, yaml.YAMLError: what cannot be composed.
    """
    version.setbase(None)
    store = ConfigStore.instance()
    store.store(name=name, node=node)
    try:
        loader = ConfigLoaderImpl(create_config_search_path(str(folder)))
        parsed, repository = loader._parse_overrides_and_create_caching_repo(name, list(overrides))
        found = create_defaults_list(repository, name, parsed, with_hydra, skip_missing=False)
        config = loader._compose_config_from_defaults_list(found.defaults, repository)
    finally:
        store.repo.pop(f"{name}.yaml", None)
    OmegaConf.set_struct(config, True)
    changes = found.config_overrides
    if not with_hydra:
        changes = [change for change in changes if change.key_or_group != SEARCH_PATH]
    loader._apply_overrides_to_config(changes, config)
    OmegaConf.set_struct(config, False)
    return Composition(config, found.defaults, dict(found.overrides.known_choices))
