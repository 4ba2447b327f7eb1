"""The training loop. It names no method, model or paper: they take part as callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftcli.core.callback import State
from ftcli.data.loader import count_steps
from ftcli.trainer.checkpoint import Checkpoints, open_checkpoints
from ftcli.trainer.checkpoint_io import load_checkpoint, preserve_global_batch_size
from ftcli.trainer.context import Batch, TrainingContext, build_forward_module, count_tokens
from ftcli.trainer.ending import Outcome, end_training
from ftcli.trainer.guard import NonFiniteGuard
from ftcli.trainer.meter import OptimizerFootprint
from ftcli.trainer.progress import Progress
from ftcli.trainer.signals import StopSaveRequests
from ftcli.trainer.spikes import Spikes

if TYPE_CHECKING:
    from ftcli.core.run import Run


@dataclass
class Trainer:
    """Trains a run: accumulate, clip, step; log, evaluate and save at their intervals."""

    max_steps: int | None = None  # optimizer steps; null: as many as `epochs` take
    epochs: float | None = 1.0  # passes over the training data, when max_steps is null
    batch_size: int = 16  # rows (bins, where data.packing=bins) a device and forward pass
    gradient_accumulation_steps: int = 1  # forward passes an optimizer step
    max_grad_norm: float | None = 1.0  # gradients of a larger L2 norm are scaled to it; null: never
    strategy: Literal["ddp", "fsdp2"] = "ddp"  # several ranks: whole weights in each, or a part
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of activations; weights: model.dtype
    gradient_checkpointing: bool = False  # recompute blocks in backward: less memory, more time
    compile: bool = False  # torch.compile every block
    log_every: int = 10  # steps between lines of metrics.jsonl
    eval_every: int | None = None  # steps between evaluations during training
    eval_first: bool = True  # evaluate before the first step, for comparison
    save_every: int | None = 200  # steps between checkpoints; the end always saves one
    keep_last: int = 2  # newest checkpoints that are kept, besides the best
    on_nonfinite: Literal["stop", "skip"] = "stop"  # loss or gradient that is inf or nan
    max_skipped: int = 10  # steps in a row that may be skipped
    on_spike: Literal["ignore", "rollback"] = "ignore"  # what to do after a spike of the loss
    spike_factor: float = 7.0  # robust standard deviations above the median that are a spike
    max_rollbacks: int = 3  # in the whole run; later spikes are only recorded

    def fit(self, run: Run, checkpoint: Path | None = None) -> Outcome:
        """Train `run` to the end, or until a stop is requested.

        Args:
            checkpoint: the folder to continue from.

        Raises:
            NonFinite, OutOfMemory: in a step that the error names.
        """
        if checkpoint is not None:
            preserve_global_batch_size(run, checkpoint)
        context = self.prepare_training(run)
        # builds the loader: it raises if there are fewer batches than ranks, before the run is marked as started
        len(context.loader)
        state, checkpoints = context.state, open_checkpoints(context, self.keep_last, checkpoint)
        before: dict[str, float] = {}
        after: dict[str, float] | None = None
        if checkpoint is not None:
            load_checkpoint(checkpoint, context)
            context.apply_early_stopping()
        elif self.eval_first:
            before = context.evaluate()
        context.begin()
        with StopSaveRequests(run.dir) as requests:
            for batches in self._iterate_steps(context):
                if not self.train_step(context, batches):
                    continue
                done = state.step >= state.max_steps
                if state.step % self.log_every == 0 or done:
                    self._log_metrics(context)
                    if context.spikes.roll_back_after_spike(context, checkpoints):
                        continue
                best = False
                if _is_due(state.step, self.eval_every) and not done:
                    best = self.update_best(context, context.evaluate(periodic=True))
                    done = state.step >= state.max_steps  # a callback may have ended the run
                if done:
                    after = end_training(context, checkpoints, took_steps=True, best=best)
                    context.take_requests(requests)  # so that a resume does not find them
                    break
                stop, save = context.take_requests(requests)
                if best or save or stop or _is_due(state.step, self.save_every):
                    self.save(context, checkpoints, best, required=bool(stop))
                if stop:
                    context.run_callbacks("on_train_end")
                    return Outcome(f"stopped by {stop}", state, before, {}, context)
        if after is None:  # no step was left to take
            after = end_training(context, checkpoints, took_steps=False)
        context.run_callbacks("on_train_end")
        return Outcome("finished", state, before, after, context)

    def train_step(self, context: TrainingContext, batches: list[Batch]) -> bool:
        """Take one optimizer step on these micro-batches; return False if it was skipped as not finite."""
        taken = context.state.step
        with context.guard.handle_step_errors(context, batches):
            self._take_step(context, batches)
        return context.state.step > taken

    def _take_step(self, context: TrainingContext, batches: list[Batch]) -> None:
        state, ranks, micro_batches = context.state, context.accelerator.num_processes, len(batches)
        context.run_callbacks("before_step")
        batches = context.guard.batches = context.run.objective.rollout(state, batches)
        factor = context.run.scheduler.factor(state.step, state.max_steps)
        if context.uses_backward:
            loss = context.compute_gradients(batches)
            context.guard.reject_step_if_skipping(context, loss)
            context.run_callbacks("after_backward")
            norm, check_value = context.clip_and_step(factor, self.max_grad_norm), None
        else:
            (loss, check_value), norm = context.zeroth_order_step(batches, factor), None
            context.guard.reject_step_if_skipping(context, loss, check_value)
        state.step += 1
        state.batch += micro_batches
        state.tokens += (tokens := sum(count_tokens(batch) for batch in batches) * ranks)
        state.supervised += sum(batch["num_supervised"] for batch in batches) * ranks
        indices = [batch["indices"] for batch in batches]
        context.meter.record_step(state.step, loss, norm, indices, tokens, check_value)
        context.run_callbacks("after_step")

    def _iterate_steps(self, context: TrainingContext) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step, from the position in the data that the state holds."""
        state, loader = context.state, context.loader
        accumulation_steps = self.gradient_accumulation_steps
        while state.step < state.max_steps:
            plan = loader.list_batch_indices(state.epoch)
            for start in range(state.batch, len(plan), accumulation_steps):
                yield [loader.batch(rows) for rows in plan[start : start + accumulation_steps]]
                if state.step >= state.max_steps:
                    return
            state.epoch, state.batch = state.epoch + 1, 0

    def prepare_training(self, run: Run) -> TrainingContext:
        """Load the model, build the optimizer, set up all callbacks; return its context before the first step."""
        accelerator = run.accelerator
        model = build_forward_module(run)
        named = [(n, p) for n, p in run.model.named_parameters() if p.requires_grad]
        optimizer = run.optimizer_builder.build(named, accelerator.device)
        state = State(run, run.model, self.count_steps(run))
        callbacks = run.callbacks() | {"costs": OptimizerFootprint(), "progress": Progress()}
        callbacks |= {"guard": NonFiniteGuard(self), "spikes": Spikes(self)}
        context = TrainingContext(
            run, model, accelerator, optimizer, callbacks, [p for _, p in named], state,
            run.data.prepare("train", run.tokenizer).fingerprint,
        )  # fmt: skip
        run.objective.check_optimizer_supported(optimizer)
        for callback in callbacks.values():
            callback.setup(run)
        run.model.train()
        return context

    def count_steps(self, run: Run) -> int:
        """Return the number of optimizer steps of the whole run."""
        if self.max_steps is not None:
            return self.max_steps
        loader = run.build_loader(run.accelerator.process_index, run.accelerator.num_processes)
        return count_steps(len(loader), self.epochs, self.gradient_accumulation_steps)

    def _log_metrics(self, context: TrainingContext) -> None:
        state = context.state
        popped, lr = context.pop_metrics(), context.optimizer.param_groups[0]["lr"]
        epoch = round(state.epoch + state.batch / len(context.loader), 4)
        metrics = {"step": state.step, "epoch": epoch, "batch": state.batch, "lr": lr}
        metrics |= {"tokens": state.tokens} | popped | context.guard.metrics
        context.append_metrics(metrics)
        context.run_callbacks("on_log", metrics)

    def update_best(self, context: TrainingContext, scores: dict[str, float]) -> bool:
        """Return whether the held-out loss is the lowest so far, and record it if so."""
        loss, best = scores.get("eval.loss"), context.state.best
        if loss is None or (best is not None and loss >= best):
            return False
        context.state.best = loss
        return True

    def save(
        self, context: TrainingContext, checkpoints: Checkpoints | None, best: bool, required: bool
    ) -> None:
        """Write a checkpoint of the current step, if the run keeps them, after checking that all is finite."""
        context.meter.pause()
        context.guard.check_before_save(context)
        writes = context.saves_shards or context.accelerator.is_main_process
        if checkpoints is not None and writes:
            checkpoints.save(context, best, required)
        context.accelerator.wait_for_everyone()
        context.meter.begin()


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and every > 0 and step % every == 0
