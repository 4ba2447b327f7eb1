"""The server: rounds, evaluations, and checkpoints between rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftcli.core.callback import Callback
from ftcli.pipelines.federated.engines import ClientUpdate, Engine, Exchange, LocalEngine
from ftcli.pipelines.federated.messages import pack_request, unpack_reply
from ftcli.trainer.checkpoint import Checkpoints, open_checkpoints
from ftcli.trainer.checkpoint_io import load_checkpoint
from ftcli.trainer.ending import Outcome, end_training
from ftcli.trainer.signals import StopSaveRequests

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.pipelines.federated.base import Federated


class Traffic(Callback):
    """Counts bytes and messages of the run."""

    def __init__(self) -> None:
        self.totals = dict.fromkeys(("messages", "down", "up", "wire_down", "wire_up"), 0)

    def add_round(self, sent: int, received: int, mail: ClientUpdate) -> None:
        """Add a round: bytes of payload sent and received, and the bytes that the engine sent."""
        new = (len(mail.replies), sent, received, mail.down, mail.up)
        for name, value in zip(self.totals, new, strict=True):
            self.totals[name] += value

    def metrics(self) -> dict[str, float]:
        """Return means per client and round: bytes of payload down and up, and bytes on the wire."""
        names = {"down": "bytes_down", "up": "bytes_up"}
        count = max(1, self.totals["messages"])
        return {names.get(k, k): v / count for k, v in self.totals.items() if k != "messages"}

    def state_dict(self) -> dict[str, Any]:
        """The totals."""
        return dict(self.totals)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the totals."""
        self.totals = dict(saved)


class Server:
    """Sends the global model to the clients of a round, aggregates their replies, and evaluates it."""

    def __init__(self, settings: Federated, run: Run) -> None:
        self.settings, self.run, self.trainer = settings, run, run.trainer
        self.context, self.shared = settings.start(run)
        self.traffic = Traffic()
        self.context.callbacks["traffic"] = self.traffic
        self.checkpoints: Checkpoints | None = None
        self.scores: dict[str, float] | None = None  # after the last round

    def fit(self, checkpoint: Path | None) -> Outcome:
        """Run all rounds from the start or a checkpoint; see `Federated.fit`."""
        context, before = self.context, {}
        self.checkpoints = open_checkpoints(context, self.trainer.keep_last, checkpoint)
        if checkpoint is not None:
            load_checkpoint(checkpoint, context)
        elif self.trainer.eval_first:
            before = context.evaluate()
        context.begin()
        with StopSaveRequests(self.run.dir) as requests:
            stop = self._engine().run(lambda exchange: self._rounds(exchange, requests))
        after = {} if stop else self.scores
        if after is None:  # no round was left to play
            after = end_training(context, self.checkpoints, took_steps=False)
        context.run_callbacks("on_train_end")
        status = f"stopped by {stop}" if stop else "finished"
        rounds = {"rounds": self._round}
        return Outcome(
            status, context.state, before, after, context, rounds | self.traffic.metrics()
        )

    @property
    def _round(self) -> int:
        return self.context.state.step // self.settings.local_steps

    def _engine(self) -> Engine:
        if self.settings.engine == "flower":
            from ftcli.pipelines.federated.flower import FlowerEngine

            return FlowerEngine(self.run.config)
        return LocalEngine(self.settings.build_client(self.run, self.context, self.shared))

    def _rounds(self, exchange: Exchange, requests: StopSaveRequests) -> str | None:
        """Run the remaining rounds; returns the reason of a stop before the last one, else None."""
        context, trainer = self.context, self.trainer
        while context.state.step < context.state.max_steps:
            self.run_round(exchange)
            done = context.state.step >= context.state.max_steps
            if done:
                self.scores = end_training(context, self.checkpoints, took_steps=True)
                context.take_requests(requests)  # so that a resume does not find them
                break
            best = False
            if self._is_due(trainer.eval_every):
                best = trainer.update_best(context, context.evaluate(periodic=True))
            stop, save = context.take_requests(requests)
            if best or save or stop or self._is_due(trainer.save_every):
                trainer.save(context, self.checkpoints, best, required=bool(stop))
            if stop:
                return stop
        return None

    def run_round(self, exchange: Exchange) -> None:
        """Run one round; afterwards the model of the server is the new global model."""
        state, members = self.context.state, self._members()
        message = pack_request(self._round, self.shared.broadcast())
        mail = exchange(dict.fromkeys(members, message))
        self.traffic.add_round(
            len(message) * len(members), sum(map(len, mail.replies.values())), mail
        )
        replies = [unpack_reply(mail.replies[client]) for client in members]
        sizes = [r.rows if self.settings.weighting == "rows" else 1 for r in replies]
        weights = [size / sum(sizes) for size in sizes]
        self.shared.aggregate([(w, r.body) for w, r in zip(weights, replies, strict=True)])
        self.shared.load(self.shared.broadcast())
        loss = sum(w * r.loss for w, r in zip(weights, replies, strict=True))
        tokens = sum(r.tokens for r in replies)
        state.step += self.settings.local_steps
        state.tokens += tokens
        state.supervised += sum(r.supervised for r in replies)
        self.context.meter.record_metrics({}, sum(r.forwards for r in replies))
        self.context.meter.record_step(state.step, torch.tensor(loss), None, [], tokens)
        self._log(len(message), sum(len(r) for r in mail.replies.values()) / len(members), members)
        if self.run.dir is not None:
            self.shared.write_files(self.run.dir.path)

    def _members(self) -> list[int]:
        """Return the clients of this round, drawn from the run's seed and the round."""
        everybody = np.array(self.settings.members or range(self.settings.clients))
        count = max(1, round(self.settings.fraction * len(everybody)))
        random = np.random.default_rng([self.run.seed, self._round])
        return sorted(random.choice(everybody, count, replace=False).tolist())

    def _log(self, down: float, up: float, members: list[int]) -> None:
        state, popped = self.context.state, self.context.pop_metrics()
        metrics = {
            "step": state.step, "round": self._round, "clients": members,
            "lr": self.run.optimizer_builder.lr * self.run.scheduler.factor(state.step - 1, state.max_steps),
            "tokens": state.tokens, "bytes_down": down, "bytes_up": up,
        }  # fmt: skip
        self.context.append_metrics(metrics | popped)
        self.context.run_callbacks("on_log", metrics | popped)

    def _is_due(self, every: int | None) -> bool:
        """Whether an interval of `every` steps ended within the last round."""
        step, before = self.context.state.step, self.context.state.step - self.settings.local_steps
        return every is not None and step // every > before // every
