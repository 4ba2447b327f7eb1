"""Compose and validate the configuration of a job from YAML files and overrides, without importing torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftcli.config.building import build as build
    from ftcli.config.composition import compose as compose
    from ftcli.config.composition import load as load
    from ftcli.config.job import ComposedJob as ComposedJob
    from ftcli.config.job import Origin as Origin
    from ftcli.config.paths import configs_dir as configs_dir
    from ftcli.config.paths import recipes_dir as recipes_dir
    from ftcli.config.validation import validate_and_convert as validate_and_convert

#: Public name -> module that defines it, imported on first use: Hydra only where a job is composed.
_MODULES = {
    "build": "building", "ComposedJob": "job", "Origin": "job", "compose": "composition",
    "load": "composition", "configs_dir": "paths", "recipes_dir": "paths", "validate_and_convert": "validation",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
