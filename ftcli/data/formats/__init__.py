"""Formats of rows: one module a format, found by name.

A format module has

    FIELDS      field -> whether a row must have it
    SYNONYMS    field -> column names that often hold it, for suggestions
    DEFAULTS    field -> columns from which it is read without being mapped
    example(fields) -> the canonical example, or `RowError` where the row is invalid

A canonical example is {"prompt", "completion"}, {"prompt", "chosen", "rejected"}, {"messages"} or {"text"}, and
perhaps "tools"; `ftcli.data.conversation` describes messages.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import ModuleType

from ftcli.core.errors import UserError

#: Field of any format: answers to compare with.
REFERENCES = "references"
#: Field for whether the answer of the row is a good one (unpaired feedback, as in KTO).
LABEL = "label"
#: Columns that a field is read from without being mapped, in every format that has the field.
DEFAULTS = {
    "system": ("system", "system_prompt", "system_message"),
    "tools": ("tools", "functions"),
    LABEL: (LABEL, "kto_tag"),
}


@cache
def list_formats() -> list[str]:
    """Names of all formats."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


@cache
def load_format(name: str) -> ModuleType:
    """Return the module of a format.

    Raises:
        UserError: there is no such format.
    """
    if name not in list_formats():
        near = get_close_matches(name, list_formats(), 1)
        raise UserError(
            f"no such format '{name}'." + (f" Did you mean {near[0]}?" if near else ""),
            where="data.format",
            fix=f"one of {', '.join(list_formats())}, auto",
        )
    return importlib.import_module(f"{__name__}.{name}")


def default_columns(module: ModuleType, field: str) -> Sequence[str]:
    """Columns from which a field is read where it is not mapped, in order of preference."""
    columns: Mapping[str, Sequence[str]] = getattr(module, "DEFAULTS", {})
    return columns.get(field) or DEFAULTS.get(field) or (field,)


def required_fields(module: ModuleType) -> list[str]:
    """Fields that a row of the format must have."""
    return [field for field, needed in module.FIELDS.items() if needed]
