"""A client: receives the global model, trains on its own rows, and replies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftcli.core.callback import State
from ftcli.pipelines.federated.messages import Reply, unpack_request
from ftcli.pipelines.federated.partition import read_categories, split_rows
from ftcli.trainer.meter import Meter

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.pipelines.federated.base import Federated
    from ftcli.pipelines.federated.shared_model import SharedModel
    from ftcli.trainer.context import Batch, TrainingContext


class Client:
    """Trains for any client number in this process, without state between rounds.

    The work of a client in a round is a pure function of the run's seed, the client number, the round
    and the message, whichever process does it and whether or not the run was interrupted.

    Args:
        context: the training context of this process; every message overwrites its model.
    """

    def __init__(
        self, settings: Federated, run: Run, context: TrainingContext, shared: SharedModel
    ) -> None:
        self.settings, self.run, self.context, self.shared = settings, run, context, shared
        self.loader = run.build_loader()
        group = self.loader.group
        labels = read_categories(run.data, self.loader.prepared, settings.by, group)
        parts = split_rows(labels, settings.clients, settings.partition, settings.alpha, run.seed)
        self.rows = [[group * row + i for row in part for i in range(group)] for part in parts]

    def answer(self, client: int, message: bytes) -> bytes:
        """Train as one client from the server's request; returns the reply, both as bytes."""
        import torch

        round_, body = unpack_request(message)
        self.shared.load(body)
        torch.manual_seed(derive_seed(self.run.seed, client, round_))
        local = self._build_round_context(client, round_, body)
        for batches in self._batches(client, round_):
            self.run.trainer.train_step(local, batches)
        loss = local.pop_metrics()["loss"]
        rows, state = len(self.rows[client]) // self.loader.group, local.state
        counted = (state.tokens, state.supervised, local.meter.evaluations)
        return Reply(rows, *counted, loss, self.shared.build_reply()).pack()

    def _build_round_context(self, client: int, round_: int, body: bytes) -> TrainingContext:
        """Return the training context of one client in one round, with a new optimizer and meter."""
        run, context = self.run, self.context
        named = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
        optimizer: Any = run.optimizer_builder.build(named, run.accelerator.device)
        if hasattr(optimizer, "reseed"):
            optimizer.reseed(derive_seed(run.seed, client, round_))
        self.shared.begin_client(optimizer, body)
        state = State(
            run, run.model, context.state.max_steps, step=round_ * self.settings.local_steps
        )
        run.model.train()
        return replace(context, optimizer=optimizer, state=state, meter=Meter())

    def _batches(self, client: int, round_: int) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each local step, from shuffled passes over the client's rows."""
        trainer, group = self.run.trainer, self.loader.group
        random = np.random.default_rng([self.run.seed, client, round_])
        units = np.array(self.rows[client]).reshape(-1, group)
        waiting: list[np.ndarray] = []
        for _ in range(self.settings.local_steps):
            batches = []
            for _ in range(trainer.gradient_accumulation_steps):
                while len(waiting) < trainer.batch_size:
                    waiting += list(units[random.permutation(len(units))])
                rows = np.concatenate(waiting[: trainer.batch_size]).tolist()
                waiting = waiting[trainer.batch_size :]
                batches.append(self.loader.batch(rows))
            yield batches


def derive_seed(*numbers: int) -> int:
    """Return a seed below 2^31 from a run's seed, a client and a round."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
