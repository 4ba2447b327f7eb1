"""The keys a node takes: those of its class, and those of the library class that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.config import signature
from ftcli.config.signature import NoSuchClass, Parameter

TARGET = "_target_"


@dataclass(frozen=True)
class Keys:
    """What a node with `_target_` may hold.

    Attributes:
        parameters: key -> Parameter, of the class and of the library class it names.
        open: whether further keys are accepted.
        owner: the class itself.
        library: the library class whose options are accepted, if any.
        lost: the key and error where the library class cannot be found.
    """

    parameters: dict[str, Parameter]
    open: bool
    owner: signature.Signature
    library: str | None = None
    lost: tuple[str, NoSuchClass] | None = None


def keys_of(node: Mapping[str, Any]) -> Keys:
    """Keys of a node, from `_target_` and from the key that names a library class.

    Raises:
        NoSuchClass: `_target_` leads nowhere.
    """
    if not isinstance(node[TARGET], str):
        raise NoSuchClass(str(node[TARGET]), [])
    own = signature.read(node[TARGET])
    parameter = own.class_path
    if parameter is None:
        return Keys(own.parameters, own.open, own)
    named = node.get(parameter.name, parameter.default if parameter.has_value else None)
    if not isinstance(named, str) or named == "???":
        return Keys(own.parameters, True, own)
    try:
        library = signature.read(named)
    except NoSuchClass as error:
        return Keys(own.parameters, True, own, named, (parameter.name, error))
    # `params` of an optimizer is handed over by ftcli, never written in YAML
    taken = {"params", *own.parameters}
    options = {k: p for k, p in library.parameters.items() if k not in taken}
    return Keys({**own.parameters, **options}, library.open, own, named)
