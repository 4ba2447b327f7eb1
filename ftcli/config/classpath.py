"""The type of a field that names a class of a library, such as `peft.LoraConfig`."""

from __future__ import annotations

from typing import TypeAlias

#: A dotted class name. A component with such a field and `**options` takes the options of that class.
ClassPath: TypeAlias = str

#: What a ClassPath may name. A component (`_target_`) may only stand in `ftcli` itself.
LIBRARIES = ("peft", "torch.optim", "bitsandbytes.optim", "transformers", "schedulefree", "ftcli")
COMPONENTS = ("ftcli",)


def allowed(path: str, packages: tuple[str, ...] | list[str]) -> bool:
    """Whether `path` stands inside one of `packages`."""
    return any(path == package or path.startswith(package + ".") for package in packages)
