"""Federated pipelines: rounds of clients that train on their own rows, and a server that aggregates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftcli.core.errors import UserError
from ftcli.optimizers.replay import Replayable
from ftcli.pipelines.federated.partition import Kind

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.pipelines.federated.client import Client
    from ftcli.pipelines.federated.shared_model import SharedModel
    from ftcli.trainer.context import TrainingContext
    from ftcli.trainer.ending import Outcome


@dataclass
class Federated(ABC):
    """Base of the federated pipelines: clients, rounds, engine.

    Steps of a run are steps of one client: there are `trainer.max_steps / local_steps` rounds, and all
    intervals of the trainer count steps as well.
    """

    clients: int = 8  # how many hold rows
    fraction: float = 1.0  # share of them that takes part in a round
    local_steps: int = 200  # optimizer steps of a client in a round
    partition: Kind = "iid"  # rows at random; or skewed by category; or whole categories
    alpha: float = 0.5  # of partition=dirichlet: the smaller, the fewer categories a client has
    by: str | None = None  # column that holds the category; null: the answer of a row
    weighting: Literal["rows", "equal"] = "rows"  # what a client counts for: its rows, or all alike
    members: list[int] | None = None  # clients that ever take part, from 0; null: all
    engine: Literal["local", "flower"] = "local"  # in this process, or processes of Flower

    def __post_init__(self) -> None:
        for key in ("clients", "local_steps", "alpha"):
            if not getattr(self, key) > 0:
                raise UserError(f"{getattr(self, key)} is not positive.", where=f"pipeline.{key}")
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"{self.fraction} is not a share of the clients, above 0 and at most 1.",
                "pipeline.fraction",
                "0.05 or 1",
            )
        strange = [m for m in self.members or () if not 0 <= m < self.clients]
        if strange or self.members == []:
            raise UserError(
                f"{self.members} are not clients: there are 0 to {self.clients - 1}.",
                where="pipeline.members",
                fix="pipeline.members=null",
            )

    @abstractmethod
    def build_shared_model(self, context: TrainingContext) -> SharedModel:
        """Return the global model of one process; `context` holds the initial model."""

    def check(self, run: Run, context: TrainingContext) -> None:
        """Refuse settings that federated rounds do not support.

        Raises:
            UserError: the setting, and what to use instead.
        """
        if run.accelerator.num_processes > 1:
            raise UserError(
                "federated clients cannot be distributed over the ranks of one run.",
                where="pipeline",
                fix="train without -p",
            )
        if run.trainable is not None:
            raise UserError(
                "a trainable policy depends on the step, and every client counts its own steps.",
                where="trainable",
                fix="~trainable",
            )
        if getattr(run.data, "sources", None) is not None or getattr(
            run.data, "rows_per_epoch", None
        ):
            raise UserError(
                "clients pass over their own rows, so that weights and a total would have no effect.",
                where="data.sources",
                fix="data.path=FOLDER with the rows of all sources",
            )
        if run.data.packing == "bins":
            raise UserError(
                "packing into bins would mix rows of different clients.",
                where="data.packing",
                fix="data.packing=flat",
            )
        if context.state.max_steps % self.local_steps:
            raise UserError(
                f"{context.state.max_steps} steps cannot be divided into whole rounds of {self.local_steps}.",
                where="pipeline.local_steps",
                fix=f"trainer.max_steps={-(-context.state.max_steps // self.local_steps) * self.local_steps}",
            )

    def start(self, run: Run) -> tuple[TrainingContext, SharedModel]:
        """Return the training context of this process with the initial model, and the shared model in it."""
        context = run.trainer.prepare_training(run)
        if isinstance(run.optimizer_builder, Replayable):
            run.optimizer_builder.path = (
                None  # its log is of one row of steps, and clients have many
            )
        self.check(run, context)
        shared = self.build_shared_model(context)
        context.callbacks["federation"] = shared
        return context, shared

    def build_client(self, run: Run, context: TrainingContext, shared: SharedModel) -> Client:
        """Return the client that trains for any client number in this process."""
        from ftcli.pipelines.federated.client import Client

        return Client(self, run, context, shared)

    def fit(self, run: Run, checkpoint: Path | None = None) -> Outcome:
        """Train `run` to the end, or to the end of the round in which a stop is requested.

        Args:
            checkpoint: the folder to go on from.
        """
        from ftcli.pipelines.federated.server import Server

        return Server(self, run).fit(checkpoint)
