"""`${oc.env:NAME}` in a configuration: any variable but secrets, which a file could send elsewhere."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from ftcli.core.redaction import is_secret_variable


def guard() -> None:
    """Put our resolver in the place of OmegaConf's."""
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)


def _variable(name: str, *default: Any) -> Any:
    if is_secret_variable(str(name)):
        raise PermissionError(
            f"{name} is named as secrets are; a configuration may not read it. Libraries take "
            "their keys from the environment by themselves"
        )
    return oc.env(name, *default)
