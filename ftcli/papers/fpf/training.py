"""The loop of continual training: passes over tasks, phases between them, and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.atomic import write_json
from ftcli.data.media.labelled_split import Rows
from ftcli.papers.fpf.costs import Costs
from ftcli.papers.fpf.evaluation import TaskAccuracy
from ftcli.papers.fpf.groups import Group, list_groups, select_groups
from ftcli.papers.fpf.objective import ReplayClassification
from ftcli.papers.fpf.phase import build_batch, finetune_groups, list_triggers
from ftcli.papers.fpf.record import TaskRecord
from ftcli.papers.fpf.reservoir import Reservoir
from ftcli.papers.fpf.sensitivity import ACROSS, WITHIN, Sensitivity
from ftcli.papers.fpf.stream import Pass, TaskStream, split_tasks
from ftcli.trainer.checkpoint import Checkpoints, open_checkpoints
from ftcli.trainer.checkpoint_io import load_checkpoint
from ftcli.trainer.ending import Outcome, end_training
from ftcli.trainer.signals import StopSaveRequests

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.papers.fpf.pipeline import Continual

FILE = "continual.json"


class ContinualTraining:
    """A run over a stream of tasks, with all that takes part in it."""

    def __init__(self, settings: Continual, run: Run) -> None:
        settings.check(run)
        self.settings, self.run, self.trainer = settings, run, run.trainer
        self.context = self.trainer.prepare_training(run)
        groups = list_groups(run.model)
        self.selected = (
            [] if settings.top is not None else select_groups(run.model, settings.groups)
        )
        tasks = split_tasks(self.context.loader.prepared, settings.tasks)
        steps = self.context.state.max_steps
        self.stream = TaskStream(tasks, steps, self.trainer.batch_size, run.seed)
        self.triggers = list_triggers(settings.phases, self.stream.num_steps)
        self.buffer = Reservoir(settings.buffer, run.seed)
        self.sensitivity, self.costs, self.record = Sensitivity(groups), Costs(), TaskRecord(steps)
        self.context.callbacks |= {
            "buffer": self.buffer, "sensitivity": self.sensitivity, "costs_of_tasks": self.costs,
            "tasks": self.record,
        }  # fmt: skip
        self.evaluator = next(
            (e for e in run.evaluators.values() if isinstance(e, TaskAccuracy)), None
        )

    def fit(self, checkpoint: Path | None) -> Outcome:
        """Train from the start or a checkpoint; see `Continual.fit`."""
        context, state, before = self.context, self.context.state, {}
        checkpoints = open_checkpoints(context, self.trainer.keep_last, checkpoint)
        if checkpoint is not None:
            load_checkpoint(checkpoint, context)
            context.apply_early_stopping()
        elif self.trainer.eval_first:
            before = context.evaluate()
        start = state.step
        context.begin()
        with StopSaveRequests(self.run.dir) as requests:
            stop = self._train(checkpoints, requests)
        if stop:
            context.run_callbacks("on_train_end")
            return Outcome(f"stopped by {stop}", state, before, {}, context)
        after = end_training(context, checkpoints, took_steps=state.step > start)
        context.run_callbacks("on_train_end")
        return Outcome("finished", state, before, after, context, self._finish())

    def _train(self, checkpoints: Checkpoints | None, requests: StopSaveRequests) -> str | None:
        """Take the steps that are left; return the reason of a stop before the last one, else None."""
        context, state, trainer = self.context, self.context.state, self.trainer
        for rows in self._iterate_steps():
            self._take_step(rows)
            done = state.step >= state.max_steps
            if state.step % trainer.log_every == 0 or done:
                self._log(rows.epoch)
            best = False
            if _is_due(state.step, trainer.eval_every) and not done:
                best = trainer.update_best(context, context.evaluate(periodic=True))
            stop, save = context.take_requests(requests)
            if done:
                break
            if best or save or stop or _is_due(state.step, trainer.save_every):
                trainer.save(context, checkpoints, best, required=bool(stop))
            if stop:
                return stop
        return None

    def _iterate_steps(self) -> Iterator[Rows]:
        """Yield the rows of each step, from the position that the state holds."""
        state = self.context.state
        while state.step < state.max_steps:
            batches = self.stream.list_batches(state.epoch)
            yield from batches[state.batch :]

    def _take_step(self, rows: Rows) -> None:
        """Train on rows of the stream and replayed ones, fill the buffer, and do what is due after the step."""
        state, settings = self.context.state, self.settings
        replayed = self.buffer.draw(len(rows), state.step) if settings.replay else []
        number = rows.epoch
        batch = build_batch(self.context, [*rows, *replayed], self.buffer, number, len(replayed))
        key = ("step", len(rows), len(replayed), batch["num_supervised"])
        with self.costs.count(key, stream=len(rows), replay=len(replayed)):
            self.trainer.train_step(self.context, [batch])
        planned = self.stream.passes[number]
        if planned.first:
            self.buffer.offer(rows)
        objective = self.run.objective
        if isinstance(objective, ReplayClassification) and objective.logits is not None:
            self.buffer.store_logits(rows, objective.logits[: len(rows)])
        if state.batch >= planned.batches:
            self._end_pass(planned)
        if state.step in self.triggers:
            self._run_phase(self.triggers.index(state.step))

    def _end_pass(self, planned: Pass) -> None:
        """Record how far the groups moved, and after the last pass over a task the accuracies."""
        state = self.context.state
        kind = WITHIN if not planned.first else ACROSS if planned.task else None
        self.sensitivity.record(kind if planned.whole else None)
        if planned.last and self.evaluator is not None:
            self.record.add(self._measure_tasks())
        state.epoch, state.batch = state.epoch + 1, 0

    def _run_phase(self, phase: int) -> None:
        with self.sensitivity.ignore():
            first_pass = len(self.stream.passes) + phase * self.settings.epochs
            groups = self.choose_groups()
            finetune_groups(
                self.context, self.settings, groups, self.buffer, self.costs, first_pass
            )
        if self.evaluator is not None and self.context.state.step == self.stream.num_steps:
            self.record.final = self._measure_tasks()

    def choose_groups(self) -> list[Group]:
        """Return the groups that a phase trains now."""
        top = self.settings.top
        return self.selected if top is None else self.sensitivity.take_top(top)

    def _measure_tasks(self) -> list[float]:
        assert self.evaluator is not None
        with self.run.evaluation_weights():
            return self.evaluator.measure_tasks(self.run)[0]

    def _log(self, number: int) -> None:
        """Write a line about the steps since the last one, the last of them in this pass."""
        state, context = self.context.state, self.context
        metrics = {
            "step": state.step, "task": self.stream.passes[number].task, "epoch": number,
            "lr": context.optimizer.param_groups[0]["lr"], "tokens": state.tokens,
        }  # fmt: skip
        metrics |= context.pop_metrics()
        context.append_metrics(metrics)
        context.run_callbacks("on_log", metrics)

    def _finish(self) -> dict[str, float]:
        """Write accuracies, changes of groups and selection to `continual.json`; return the figures of the run."""
        figures = self.costs.describe() | self.record.describe()
        chosen = self.choose_groups() if self.settings.phases else []
        figures["fpf_parameters"] = sum(
            t.numel() for group in chosen if not group.is_statistics for t in group.tensors
        )
        if self.run.dir is not None:
            content: dict[str, Any] = {
                "accuracies": self.record.rows, "final": self.record.final,
                "selected": [group.name for group in chosen], "groups": self.sensitivity.describe(),
            }  # fmt: skip
            write_json(self.run.dir.path / FILE, content)
        return figures


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and every > 0 and step % every == 0
