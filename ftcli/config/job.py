"""What stands at the top of a job beside its groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class RunSettings:
    """Where a run leaves its files: `dir/name/<time>/`."""

    name: str | None = None  # name of the run; null is the name of the job's file
    dir: str = "runs"  # folder that holds the runs


@dataclass
class Job:
    """Keys of a job that belong to no group."""

    seed: int = 0  # of the data order, the weights' initial values and dropout
    run: RunSettings = field(default_factory=RunSettings)  # where the run leaves its files
    stages: dict[str, list[str]] = field(
        default_factory=dict
    )  # runs one after the other: name -> what each changes of this job
    handover: Literal["auto", "continue", "merge"] = (
        "auto"  # how a stage begins: with the adapter of the one before, or its merged model
    )
    init_from: str | None = None  # a finished run of the same method whose weights are gone on with


TARGET = "ftcli.config.job.Job"
#: Key -> values it must have for this job or option to make sense; kept in the configuration,
#: seen by no class. See `ftcli.config.requirements`.
REQUIRES = "requires"
#: What an option of a method says of itself (`ftcli.methods.base.Promises`); in place of its class.
PROMISES = "promises"
#: Keys of an option that are read by nobody but the house.
UNREAD = (REQUIRES, PROMISES)
#: Keys of a recipe beside its job (`ftcli.config.recipe.Recipe`): judged, never configured.
RECIPE = ("paper", "variant", "baselines", "claims", "scales", "seeds", "tune")
#: Groups whose node is one object; a job cannot run without them.
OBJECTS = ("model", "data", "method", "objective", "optimizer", "scheduler", "trainer")
#: Groups whose node is a mapping of a name to an object.
COLLECTIONS = ("eval", "logger", "penalty")
