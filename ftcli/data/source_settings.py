"""Settings of sources: one that is trained on, several that are mixed, and sets for evaluation alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.data.dataset import Data

Format = Literal["auto", "chat", "instruction", "preference", "prompt", "text"]
#: Names of files that say the split and not what the rows are.
SPLIT_NAMES = {"train", "validation", "valid", "val", "dev", "test", "data", "rows"}
#: Keys of `Data` that describe its only source; with `data.sources` each source has its own.
OWN_KEYS = ("path", "name", "split", "revision", "format", "columns")


@dataclass
class SourceSettings:
    """The place of a source's rows, and the meaning of their columns."""

    path: str  # asset:e2e, a file, folder or glob, or a hub id
    name: str | None = None  # configuration of a hub data set
    split: str = "train"  # which split of the source is read
    revision: str | None = None  # branch, tag or commit of a hub data set
    format: Format = "auto"
    columns: dict[str, str | None] = field(
        default_factory=dict
    )  # field of the format -> column; null leaves the field out
    limit: int | None = None  # read only the first rows


@dataclass
class TrainingSource(SourceSettings):
    """A source that is trained on, alone or mixed with others."""

    weight: float | None = (
        None  # its rows in an epoch, relative to the other weights; null in all: every row once
    )
    title: str | None = None  # name in metrics and messages; the last part of the path if left out

    @property
    def display_name(self) -> str:
        """The title, or the part of the path that tells it from others, in letters, digits, `.`, `_`, `-`."""
        if self.title is not None:
            return self.title
        parts = [re.sub(r"\..*|[*?\[].*", "", part) for part in Path(self.path).parts]
        telling = [part for part in parts if part and part.lower() not in SPLIT_NAMES]
        name = (telling or [part for part in parts if part] or [self.path])[-1].removeprefix(
            "asset:"
        )
        return re.sub(r"[^\w.-]+", "-", name)


@dataclass
class EvalSet(SourceSettings):
    """Rows that a model is judged on and never trained on."""

    eval: list[str] | None = None  # evaluators of the job that run on it; null: all that read rows


Settings = TypeVar("Settings", bound=SourceSettings)


def read_settings(kind: type[Settings], value: Settings | Mapping[str, Any], key: str) -> Settings:
    """Return the settings of a mapping in YAML.

    Raises:
        UserError: a key is unknown, `path` is missing, or the value is no mapping.
    """
    if isinstance(value, kind):
        return value
    known = [item.name for item in fields(kind)]
    given = value if isinstance(value, Mapping) else {}
    unknown = sorted(set(map(str, given)) - set(known))
    if unknown or "path" not in given:
        what = f"there is no key '{unknown[0]}'." if unknown else "no path is given."
        raise UserError(what, where=key, fix=f"keys: {', '.join(known)}")
    return kind(**given)


def read_sources(data: Data) -> list[TrainingSource]:
    """Return the sources of a `data` option: those of `data.sources`, or the one of `data.path`.

    Raises:
        UserError: a source has an unknown key or no path.
    """
    if data.sources is not None:
        return [
            read_settings(TrainingSource, value, f"data.sources.{number}")
            for number, value in enumerate(data.sources)
        ]
    only = {key: getattr(data, key) for key in OWN_KEYS}
    return [TrainingSource(**only)] if data.path is not None else []


def source_key(data: Data, number: int) -> str:
    """Return the key of a source in messages: `data.sources.1`, or `data` for the only one."""
    return "data" if data.sources is None else f"data.sources.{number}"


def find_mistakes(data: Data) -> Iterator[UserError]:
    """Yield the mistakes in the choice of sources and sets that show before a row is read."""
    if (data.path is None) == (data.sources is None):
        what = "both data.path and data.sources are given." if data.path else "no source is given."
        yield UserError(what, "data.path", "data.path=FILE, or a list under data.sources")
    if data.rows_per_epoch is not None and data.rows_per_epoch < 1:
        yield UserError(
            f"{data.rows_per_epoch} is too small.",
            "data.rows_per_epoch",
            "data.rows_per_epoch=1 is the least",
        )
    if data.sources is not None:
        yield from _find_mistakes_of_several(data)
    for name in data.eval_sets:
        if not re.fullmatch(r"\w[\w.-]*", str(name)) or name in ("train", "validation", "test"):
            yield UserError(
                f"'{name}' cannot be the name of a set.",
                where=f"data.eval_sets.{name}",
                fix="letters, digits, - and _, and not the name of a split",
            )


def _find_mistakes_of_several(data: Data) -> Iterator[UserError]:
    defaults: dict[str, Any] = {
        "name": None,
        "split": "train",
        "revision": None,
        "format": "auto",
        "columns": {},
    }
    for key, default in defaults.items():
        if getattr(data, key) != default:
            fix = f"write {key} into the entries of data.sources"
            yield UserError("each of several sources has its own.", f"data.{key}", fix)
    if not data.sources:
        yield UserError("the list is empty.", "data.sources", "- path: FILE")
    weights = [source.weight for source in data.source_settings]
    names = [source.display_name for source in data.source_settings]
    for number, (weight, name) in enumerate(zip(weights, names, strict=True)):
        key = source_key(data, number)
        if weight is None and any(other is not None for other in weights):
            fix = f"{key}.weight=1, or no weight in any source"
            yield UserError("this source has no weight, and others do.", f"{key}.weight", fix)
        elif weight is not None and not 0 < weight < float("inf"):
            fix = "a number above 0; leave the source out to read none of it"
            yield UserError(f"{weight} is no weight.", f"{key}.weight", fix)
        if name in names[:number] or not re.fullmatch(r"[\w.-]+", name):
            what = f"'{name}' names {names.count(name)} sources." if name in names[:number] else ""
            what = what or f"'{name}' cannot be a name in metrics."
            yield UserError(what, f"{key}.title", f"{key}.title=NAME in letters, digits, - and _")
