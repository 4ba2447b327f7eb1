"""The type of a field that names a class of a library, such as `peft.LoraConfig`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeAlias

#: A dotted class name. A component with such a field and `**options` takes the options of that class.
ClassPath: TypeAlias = str

#: What a ClassPath may name. A component (`_target_`) may only stand in `ftcli` itself.
LIBRARIES = ("peft", "torch.optim", "bitsandbytes.optim", "transformers", "schedulefree", "ftcli")
COMPONENTS = ("ftcli",)


#: Environment variable with the packages the user trusts, by comma; ranks of a run inherit it.
TRUST = "FTCLI_TRUST"


def trust(packages: Iterable[str]) -> None:
    """Let classes of these packages be named too; modules of the working folder can be found then."""
    known = dict.fromkeys([*_trusted(), *packages])
    if known:
        os.environ[TRUST] = ",".join(known)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())


def allowed(path: str, packages: tuple[str, ...] | list[str]) -> bool:
    """Whether `path` stands inside one of `packages`, or of those the user trusts."""
    return any(path == p or path.startswith(f"{p}.") for p in (*packages, *_trusted()))


def _trusted() -> list[str]:
    return [name for name in os.environ.get(TRUST, "").split(",") if name]
