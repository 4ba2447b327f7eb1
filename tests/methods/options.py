"""The options of a config group as data: what a file says, what it declares, what it asks for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ftcli.config import paths
from ftcli.config.checks import read_allowed_values
from ftcli.config.job import CAPABILITIES
from ftcli.methods.base import Method

STORED = ("none", "nf4")


@cache
def files(group: str) -> Mapping[str, Path]:
    """Option -> file, of a group; all files ship, so that none of them changes."""
    return paths.list_options(group, paths.list_packaged_folders())


def options(group: str) -> list[str]:
    """Names of all options of a group."""
    return sorted(files(group))


def file_of(group: str, name: str) -> Path:
    """The file of an option that ships."""
    return files(group)[name]


@cache
def node(group: str, name: str) -> Mapping[str, Any]:
    """The content of an option's file, its own `defaults` not followed."""
    content = OmegaConf.to_container(OmegaConf.load(file_of(group, name)))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def capabilities(name: str, group: str = "method") -> Mapping[str, Any]:
    """What an option says of itself."""
    return node(group, name).get(CAPABILITIES) or {}


def method_class(name: str) -> type[Method]:
    """The class that a method's file names; that of the method it narrows where it names none."""
    content = node("method", name)
    if "_target_" not in content:
        return method_class(content["defaults"][0])
    module, _, attribute = content["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def capability(name: str, key: str) -> Any:
    """What a method's file declares of `key`, else the constant of its class."""
    return capabilities(name).get(key, getattr(method_class(name), key, None))


def kinds(name: str) -> list[str]:
    """Kinds of model that a method works on."""
    return capabilities(name).get("tested_models", ["llama"])


def storages(name: str) -> list[str]:
    """Ways to store the base's weights that a method works on."""
    may = read_allowed_values(node("method", name)).get("model.quantization", STORED)
    quantisable = capability(name, "quantisable")
    return [way for way in STORED if way in may and (way == "none" or quantisable)]
