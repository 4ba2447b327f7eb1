"""A job: the keys outside its groups, the keys of its nodes, and the job as it is composed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftcli.config import signature
from ftcli.config.signature import NoSuchClass, Parameter


@dataclass
class RunSettings:
    """Settings of the folder that a run writes to: `dir/name/<time>/`."""

    name: str | None = None  # name of the run; null is the name of the job's file
    dir: str = "runs"  # folder that holds the runs


@dataclass
class JobSettings:
    """Keys of a job outside its groups."""

    seed: int = 0  # seed of data order, initial weights and dropout
    run: RunSettings = field(default_factory=RunSettings)  # where the run writes its files
    stages: dict[str, list[str]] = field(
        default_factory=dict
    )  # runs one after the other: name -> overrides of this job
    handover: Literal["auto", "continue", "merge"] = (
        "auto"  # what a stage starts from: the adapter of the stage before, or its merged model
    )
    init_from: str | None = (
        None  # a finished run of the same method, whose weights training starts from
    )


JOB_SETTINGS_CLASS = "ftcli.config.job.JobSettings"
#: Key -> values that it must have for this job or option; stays in the configuration, passed to no
#: class. See `ftcli.config.checks`.
REQUIRES = "requires"
#: Capabilities of an option of a method (`ftcli.methods.base.Method`), which replace those of its class.
CAPABILITIES = "capabilities"
#: Keys of an option that ftcli reads itself and passes to no class.
KEYS_NOT_PASSED = (REQUIRES, CAPABILITIES)
#: Keys of a recipe beside its job (`ftcli.config.recipe.Recipe`); not part of the configuration.
RECIPE_KEYS = (
    "paper", "variant", "baselines", "claims", "scales", "scaled_variants", "seeds", "tune",
)  # fmt: skip
#: Groups whose node is one object; a job cannot run without them.
OBJECT_GROUPS = ("model", "data", "method", "objective", "optimizer", "scheduler", "trainer")
#: Groups whose node is a mapping of a name to an object.
COLLECTIONS = ("callback", "eval", "logger", "penalty")


@dataclass(frozen=True)
class Origin:
    """The place that set a value: a line of a file, or the command line if `file` is None."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "command line"
        from ftcli.config.paths import format_path

        return (
            format_path(self.file) if self.line is None else f"{format_path(self.file)}:{self.line}"
        )


COMMAND_LINE = Origin()


@dataclass
class ComposedJob:
    """A composed job: a plain configuration with the origin of each value.

    Attributes:
        config: plain nested dict, interpolations resolved; `???` stays until validation.
        origins: dotted key of every leaf (lists are leaves) -> its origin.
        job_file: the YAML file that was composed.
        overrides: overrides of the command line, as typed.
        choices: group -> option that was composed (`method` -> `lora`); empty for a resolved file.
        mapping_origins: dotted key of every mapping -> origin of the last file that opened it.
        overridden_groups: groups whose option replaces the choice of a job -> True if the command line
            replaced it, False if the job replaced the choice of the job it starts from.
        job_files: files that were merged as jobs: the job and those it starts from.
        base_job: recipe of the base model that must be trained first (`model.from_recipe`).
    """

    config: dict[str, Any]
    origins: dict[str, Origin]
    job_file: Path
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    mapping_origins: dict[str, Origin] = field(default_factory=dict)
    overridden_groups: dict[str, bool] = field(default_factory=dict)
    job_files: frozenset[Path] = frozenset()
    base_job: str | None = None

    def origin(self, key: str) -> Origin:
        """Return the origin of a key; for a key that is not set, that of the nearest mapping around it."""
        while key:
            origin = self.origins.get(key) or self.mapping_origins.get(key)
            if origin:
                return origin
            key = key.rpartition(".")[0]
        return Origin(self.job_file)

    def where(self, key: str) -> str:
        """Return the origin of a key as text: `configs/my.yaml:14` or `command line`."""
        return str(self.origin(key))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key, or `default` where the configuration does not have it."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    def drop_origins(self, key: str) -> None:
        """Drop the origins of a key that is no longer in the configuration."""
        for places in (self.origins, self.mapping_origins):
            for name in [n for n in places if n == key or n.startswith(f"{key}.")]:
                del places[name]

    def format_choice(self, group: str) -> str:
        """Format the choice of a group: `method=lora`, or `method` where no option is known."""
        option = self.choices.get(group)
        return f"{group}={option}" if option else group


def iter_leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of every leaf; lists and empty mappings are leaves."""
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            yield from iter_leaves(value, key)
        else:
            yield key, value


TARGET = "_target_"


@dataclass(frozen=True)
class Keys:
    """The keys that a node with `_target_` accepts.

    Attributes:
        parameters: key -> Parameter, of the class and of the library class that it names.
        accepts_more: whether further keys are accepted.
        class_signature: signature of the class.
        library: dotted name of the library class whose options are accepted, if any.
        library_error: key that names the library class, and the error, where it cannot be found.
    """

    parameters: dict[str, Parameter]
    accepts_more: bool
    class_signature: signature.Signature
    library: str | None = None
    library_error: tuple[str, NoSuchClass] | None = None


def read_keys(node: Mapping[str, Any]) -> Keys:
    """Read the keys of a node from its `_target_` and from the library class that it names.

    Raises:
        NoSuchClass: there is no class `_target_`.
    """
    if not isinstance(node[TARGET], str):
        raise NoSuchClass(str(node[TARGET]), [])
    class_keys = signature.read_signature(node[TARGET])
    parameter = class_keys.library_parameter
    if parameter is None:
        return Keys(class_keys.parameters, class_keys.accepts_more, class_keys)
    library_path = node.get(parameter.name, parameter.default if parameter.has_value else None)
    if not isinstance(library_path, str) or library_path == "???":
        return Keys(class_keys.parameters, True, class_keys)
    try:
        library = signature.read_signature(library_path)
    except NoSuchClass as error:
        return Keys(class_keys.parameters, True, class_keys, library_path, (parameter.name, error))
    # ftcli passes `params` of an optimizer; it is never written in YAML
    taken = {"params", *class_keys.parameters}
    options = {k: p for k, p in library.parameters.items() if k not in taken}
    return Keys(
        {**class_keys.parameters, **options}, library.accepts_more, class_keys, library_path
    )


def get_effective_value(composed: ComposedJob, key: str) -> Any:
    """Return the value of a dotted key, or the default of the class that reads it; None without either."""
    missing = object()
    current = composed.get(key, missing)
    if current is not missing:
        return current
    group, _, name = key.partition(".")
    node = composed.config.get(group)
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        return None
    try:
        parameter = read_keys(node).parameters.get(name)
    except NoSuchClass:
        return None
    return parameter.default if parameter is not None and parameter.has_value else None


def get_capability(composed: ComposedJob, group: str, name: str) -> Any:
    """Return a capability that the option of a group or its class declares (`quantisable`); None without it."""
    node = composed.config.get(group)
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        return None
    capabilities = node.get(CAPABILITIES) or {}
    if name in capabilities:
        return capabilities[name]
    try:
        return read_keys(node).class_signature.attributes.get(name)
    except NoSuchClass:
        return None
