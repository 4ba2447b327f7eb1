"""The primary config that Hydra composes, the files it is merged from, and the origin of each value.

The job is handed to Hydra from memory, so that its file may have any name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import ListConfig, OmegaConf

from ftcli.config import paths
from ftcli.config.job import COMMAND_LINE, ComposedJob, Origin, iter_leaves
from ftcli.config.overrides import Override
from ftcli.config.renamed import update_old_config
from ftcli.config.yaml_locations import locate_keys, read_root_node, read_yaml, refuse_huge_file
from ftcli.core.errors import UserError

#: Name of the primary config in Hydra's store.
PRIMARY_NAME = "_ftcli_job_"


class PrimaryConfig:
    """The job as Hydra composes it: its own keys, and a defaults list to which groups may be added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node = read_yaml(path)
        self.has_defaults = self.node.get("defaults") is not None
        self.dropped_groups: set[str] = set()
        if not self.has_defaults:  # a resolved file, which an earlier version may have written
            resolved: Any = OmegaConf.to_container(self.node)
            self.node = OmegaConf.create(update_old_config(resolved))
            self.node["defaults"] = ["_self_"]
            return
        if not isinstance(self.node.defaults, ListConfig):
            where = locate_keys(path)["defaults"]
            raise UserError("defaults must be a list: `- model: llama_mini`.", where=str(where))
        if "_self_" not in self.node.defaults:  # Hydra would put it there too, with a warning
            self._insert_entry("_self_", self._find_first_override())

    def add_choice(self, override: Override) -> None:
        """Add an option of a group that the defaults list lacks; the job's own keys override it.

        A resolved file has the complete keys of another option instead, which are removed.
        """
        if not self.has_defaults:
            self.drop_group(override.key)
        self._insert_entry({override.key: override.value}, self._find_position("_self_"))

    def names_hydra(self) -> bool:
        """Whether the job has keys of Hydra's own configuration, or selects its options."""
        entries: list[Any] = OmegaConf.to_container(self.node.defaults)  # type: ignore[assignment]
        return "hydra" in self.node or "hydra/" in str(entries)

    def list_overridden_groups(self) -> list[str]:
        """Return the groups for which the job overrides the option of the job that it starts from."""
        entries: list[Any] = OmegaConf.to_container(self.node.defaults)  # type: ignore[assignment]
        keys = [str(k) for entry in entries if isinstance(entry, dict) for k in entry]
        return [key.removeprefix("override ") for key in keys if key.startswith("override ")]

    def drop_group(self, group: str) -> None:
        """Remove the job's own keys of a group."""
        if group in self.node:
            self.node.pop(group)
            self.dropped_groups.add(group)

    def _insert_entry(self, item: Any, position: int) -> None:
        self.node.defaults.insert(position, item)

    def _find_position(self, name: str) -> int:
        entries = list(OmegaConf.to_container(self.node.defaults))  # type: ignore[arg-type]
        return entries.index(name) if name in entries else len(entries)

    def _find_first_override(self) -> int:
        entries: list[Any] = OmegaConf.to_container(self.node.defaults)  # type: ignore[assignment]
        for index, entry in enumerate(entries):
            if isinstance(entry, dict) and any(str(k).startswith("override ") for k in entry):
                return index
        return len(entries)

    def format_search_path(self, overrides: Sequence[Override], folders: Sequence[Path]) -> str:
        """Format the search path as an override: `folders`, then what the job or the command line adds."""
        job_entries = OmegaConf.select(self.node, "hydra.searchpath", default=None) or []
        added = next(
            (override.value for override in overrides if override.key == "hydra.searchpath"),
            job_entries,
        )
        for entry in added if isinstance(added, (list, ListConfig)) else [added]:
            if not isinstance(entry, str) or "://" in entry and not entry.startswith("file://"):
                raise UserError(  # pkg:// would import the package
                    f"hydra.searchpath={entry}: only folders are looked into.",
                    where=str(locate_keys(self.path).get("hydra.searchpath", "command line")),
                    fix="hydra.searchpath=[file:///path/to/configs]",
                )
        entries = [f"file://{folder}" for folder in folders[1:]] + [str(entry) for entry in added]
        return f"hydra.searchpath=[{','.join(map(_quote_entry, entries))}]"


def _quote_entry(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def find_origins(
    defaults: Iterable[Any], primary: PrimaryConfig, overrides: list[Override], folders: list[Path]
) -> dict[str, Origin]:
    """Return the origin of each dotted key: the last of the files that Hydra merged, or the command line."""
    origins: dict[str, Origin] = {}
    for default in defaults:
        name = default.config_path
        if name.startswith("hydra/"):
            continue
        if name == PRIMARY_NAME:
            kept = {
                key: origin
                for key, origin in locate_keys(primary.path).items()
                if key.split(".")[0] not in primary.dropped_groups
            }
            origins.update(kept)
        elif file := _find_file(name, folders):
            prefix = f"{default.package}." if default.package else ""
            origins[default.package] = Origin(file)
            origins.update({prefix + key: origin for key, origin in locate_keys(file).items()})
    for override in overrides:
        if not override.selects_option and override.kind != "delete":
            _set_origin(origins, override.key, override.value)
    return origins


def list_job_files(defaults: Iterable[Any], job_file: Path, folders: list[Path]) -> frozenset[Path]:
    """Return the file of the job and those of the jobs that it starts from: those merged into no group."""
    files = [_find_file(d.config_path, folders) for d in defaults if not d.package]
    return frozenset([job_file, *(file for file in files if file)])


def _set_origin(origins: dict[str, Origin], key: str, value: Any) -> None:
    origins[key] = COMMAND_LINE
    parent = key.rpartition(".")[0]
    while parent and parent not in origins:  # a mapping that no file has
        origins[parent] = COMMAND_LINE
        parent = parent.rpartition(".")[0]
    if isinstance(value, dict):
        origins.update({inner: COMMAND_LINE for inner, _ in iter_leaves({key: value})})


def _find_file(name: str, folders: list[Path]) -> Path | None:
    name = name if name.endswith(".yaml") else f"{name}.yaml"
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def find_origin(origins: dict[str, Origin], key: str, job_file: Path) -> str:
    """Return the origin of a key, or of the nearest mapping around it, as text."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return str(origins.get(key, Origin(job_file)))


def attach_origins(
    plain: dict[str, Any], origins: dict[str, Origin], job_file: Path
) -> ComposedJob:
    """Make the composed job of a configuration, with the origins of its leaves and mappings."""
    keys = {key for key, _ in iter_leaves(plain)}
    mapping_origins = {key: origin for key, origin in origins.items() if key not in keys}
    composed = ComposedJob(plain, {}, job_file, mapping_origins=mapping_origins)
    items = {k.rpartition(".")[0] for k, o in origins.items() if o == COMMAND_LINE}
    for key, value in iter_leaves(plain):
        if isinstance(value, list) and key in items:  # `metrics.0=bleu`
            composed.origins[key] = COMMAND_LINE
        else:
            composed.origins[key] = origins.get(key) or composed.origin(key)
    return composed


def refuse_huge_defaults(
    job_file: Path, overrides: Sequence[Override], folders: Sequence[Path]
) -> None:
    """Refuse huge files among those that the defaults lists and the command line name.

    Hydra reads them itself. Packaged files are not checked.

    Raises:
        UserError: see `refuse_huge_file`.
    """
    ours = (paths.configs_dir().resolve(), paths.recipes_dir().resolve())
    names = list(_iter_defaults(job_file, ""))
    names += [
        f"{override.key}/{option}"
        for override in overrides
        if override.selects_option
        for option in _as_list(override.value)
    ]
    seen: set[Path] = set()
    while names:
        name = names.pop()
        candidates = (folder / f"{name.removesuffix('.yaml')}.yaml" for folder in folders)
        file = next((file for file in candidates if file.is_file()), None)
        if file is None or file in seen or any(file.is_relative_to(root) for root in ours):
            continue
        seen.add(file)
        refuse_huge_file(file)
        names += _iter_defaults(file, name.rpartition("/")[0])


def _iter_defaults(file: Path, group: str) -> Iterator[str]:
    """Yield the entries of a file's defaults list: `other_job`, `method/lora`."""
    root = read_root_node(file)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            for entry in value.value:
                yield from (f"{group}/{name}".lstrip("/") for name in _iter_entry(entry))
                yield from _iter_entry(entry)


def _iter_entry(entry: yaml.Node) -> Iterator[str]:
    if isinstance(entry, yaml.ScalarNode):
        yield str(entry.value).split("@")[0].lstrip("/")
    for key, value in entry.value if isinstance(entry, yaml.MappingNode) else ():
        words = str(key.value).split("@")[0].split()
        options = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for option in options if words else ():
            yield f"{words[-1].lstrip('/')}/{option.value}"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
