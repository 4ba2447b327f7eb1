"""The live objects of one run on this process's device, and the operations of one training step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ftcli.core import ranks
from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError
from ftcli.evaluation.named_sets import add_score
from ftcli.models.anatomy import Anatomy
from ftcli.trainer.guard import NonFiniteGuard
from ftcli.trainer.loss import StepLoss
from ftcli.trainer.meter import Meter, Sums
from ftcli.trainer.signals import StopSaveRequests
from ftcli.trainer.spikes import Spikes

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftcli.core.run import Run
    from ftcli.data.loader import Loader

Batch = dict[str, Any]


@dataclass
class TrainingContext:
    """The run, its optimizer and its callbacks while it trains.

    Attributes:
        model: the module that forward passes call: the run's model, wrapped where there are several ranks.
        parameters: the tensors that are trained.
        fingerprint: content hash of the training data.
    """

    run: Run
    model: nn.Module
    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    callbacks: dict[str, Callback]
    parameters: list[nn.Parameter]
    state: State
    fingerprint: str
    meter: Meter = field(default_factory=Meter)

    def begin(self) -> None:
        """Start the clock before the first step of this process, and record the start in the run directory."""
        if self.accelerator.is_main_process and self.run.dir is not None:
            self.run.dir.mark_started(self.state.step)
        self.meter.begin()

    @cached_property
    def loader(self) -> Loader:
        """The training batches of this process."""
        return self.run.build_loader(self.accelerator.process_index, self.accelerator.num_processes)

    def run_callbacks(self, hook: str, *args: Any) -> None:
        """Call one hook of every callback, in order.

        Args:
            hook: name of the method of `Callback`, such as `before_step`; it gets the state and `args`.
        """
        for callback in self.callbacks.values():
            getattr(callback, hook)(self.state, *args)

    def compute_gradients(self, batches: Sequence[Batch]) -> Tensor:
        """Run forward and backward over the micro-batches of a step; return the step's loss, a detached scalar."""
        count = self.accelerator.num_processes
        step_loss = StepLoss(self.run, self.model, batches, self.sum_number_over_ranks, count)
        total = torch.zeros((), device=self.accelerator.device)
        for index, batch in enumerate(batches):
            with self._gradient_sync_context(is_last=index == len(batches) - 1):
                loss = step_loss(batch)
                check_requires_grad(loss)
                # data parallelism averages gradients over ranks, but the step needs their sum
                (loss * count if count > 1 else loss).backward()
            total += loss.detach()
        self._record(step_loss)
        return self._sum_over_ranks(total)

    def zeroth_order_step(
        self, batches: Sequence[Batch], lr_factor: float
    ) -> tuple[Tensor, Tensor]:
        """Take a step of an optimizer that uses losses and no gradient.

        The closure that the optimizer gets is a pure function of the weights: the same micro-batches in
        evaluation mode, nothing random, no counter changed.

        Args:
            lr_factor: factor on every group's initial learning rate.

        Returns:
            The loss that `optimizer.step` returned, and the sum of all, which is finite only if every one is.
        """
        count = self.accelerator.num_processes
        step_loss = StepLoss(self.run, self.model, batches, self.sum_number_over_ranks, count)
        self._set_lr(lr_factor)
        self.model.eval()
        losses: list[Tensor] = []

        def closure() -> Tensor:
            losses.append(self._sum_over_ranks(step_loss.total()))
            return losses[-1]

        optimizer: Any = (
            self.optimizer
        )  # torch types the closure as returning float; a tensor avoids a device synchronisation
        loss = optimizer.step(closure)
        self.model.train()
        self._record(step_loss)
        return torch.as_tensor(loss), torch.stack(losses).sum()

    def clip_and_step(self, lr_factor: float, max_norm: float | None) -> Tensor:
        """Clip the gradients, set the learning rate, take the optimizer's step; return the gradient norm.

        Args:
            lr_factor: factor on every group's initial learning rate.
            max_norm: gradients of a larger L2 norm are scaled down to it; None: no clipping.
        """
        if max_norm is None:
            norm = self.gradient_norm()
        else:
            norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.parameters, max_norm))
        self._set_lr(lr_factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return ranks.gather_full_tensor(norm)

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of all gradients, a scalar."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return ranks.gather_full_tensor(torch.nn.utils.get_total_norm(gradients))

    def evaluate(self, periodic: bool = False) -> dict[str, float]:
        """Return the scores of the evaluators under `eval.<score>`, after logging them and calling the hooks.

        Args:
            periodic: run only the evaluators whose field `periodic` is set.
        """
        self.meter.pause()
        run = self.run
        scores: dict[str, float] = {}
        run.evaluated_step = self.state.step
        chosen = {n: e for n, e in run.evaluators.items() if e.periodic or not periodic}
        main, sharded = self.accelerator.is_main_process, ranks.is_sharded(run.model)
        if chosen and (main or sharded):  # a forward pass of sharded weights takes all ranks
            with run.evaluation_weights(), nullcontext() if main else run.without_directory():
                for name, evaluator in chosen.items():
                    for key, value in evaluator(run).items():
                        add_score(scores, name, key, value)
            ranks.free_gathered(run.model)
        if chosen and main:
            self.append_metrics({"step": self.state.step} | scores)
            self.run_callbacks("on_evaluate", {"step": self.state.step} | scores)
        scores = self.broadcast_from_main(scores)
        self.apply_early_stopping()
        self.meter.begin()
        return scores

    def apply_early_stopping(self) -> None:
        """Set `max_steps` to the present step if a callback of the first rank gives a reason to stop."""
        reasons = [callback.get_stop_reason() for callback in self.callbacks.values()]
        reason = self.broadcast_from_main(next(filter(None, reasons), None))
        if reason and self.state.step < self.state.max_steps:
            self.state.max_steps, self.state.ended_early = self.state.step, reason
            self.append_event("ended_early", step=self.state.step, reason=reason)

    def take_requests(self, requests: StopSaveRequests) -> tuple[str | None, bool]:
        """Take the requests that the first rank sees: to stop (or None), and whether to save; equal on all ranks."""
        taken = None
        if self.accelerator.is_main_process:
            taken = requests.take_stop_request(), requests.take_save_request()
        return self.broadcast_from_main(taken)

    def pop_metrics(self) -> dict[str, float]:
        """Return the meter's metrics since the last log; those of objective and penalties are means over ranks.

        Raises:
            NonFinite: a metric of a step was not finite.
        """
        return self.meter.pop_metrics(self._average_over_ranks)

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, on the first rank."""
        if self.accelerator.is_main_process and self.run.dir is not None:
            self.run.dir.append_metrics(
                metrics | {"time": round(time.time() - self.run.created_at, 3)}
            )

    def append_event(self, kind: str, **fields: Any) -> None:
        """Add a line to events.jsonl, on the first rank."""
        if self.accelerator.is_main_process and self.run.dir is not None:
            self.run.dir.append_event(kind, **fields)

    @property
    def guard(self) -> NonFiniteGuard:
        """The callback that handles steps that are not finite."""
        return cast(NonFiniteGuard, self.callbacks["guard"])

    @property
    def spikes(self) -> Spikes:
        """The callback that handles loss spikes."""
        return cast(Spikes, self.callbacks["spikes"])

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of a step, over all ranks."""
        each: int = self.run.trainer.gradient_accumulation_steps
        return each * self.accelerator.num_processes

    @property
    def saves_shards(self) -> bool:
        """Whether each rank writes its shard of a checkpoint, so that any number of ranks can resume from it."""
        return bool(self.run.trainer.strategy == "fsdp2")

    @property
    def uses_backward(self) -> bool:
        """Whether the optimizer uses gradients."""
        return getattr(self.optimizer, "uses_backward", True)

    def _set_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _sum_over_ranks(self, total: Tensor) -> Tensor:
        return self.accelerator.reduce(total) if self.accelerator.num_processes > 1 else total

    def broadcast_from_main(self, value: Any) -> Any:
        """Return the first rank's value on every rank."""
        return ranks.broadcast_from_main(self.accelerator, value)

    def _average_over_ranks(self, metrics: Sums) -> dict[str, float]:
        """Return each metric's sum over the ranks that have it, divided by its count over them.

        A metric that nothing was counted for is left out: a reward may not apply to the answers of a rank,
        a source may have no row in some steps.
        """
        everywhere: list[Sums] = ranks.gather_objects(self.accelerator, metrics)
        means = {}
        for name in dict.fromkeys(name for metrics in everywhere for name in metrics):
            sums, counts = zip(*(rank[name] for rank in everywhere if name in rank), strict=True)
            if sum(counts) > 0:
                means[name] = sum(sums) / sum(counts)
        return means

    def _record(self, step_loss: StepLoss) -> None:
        self.meter.record_metrics(step_loss.metrics, step_loss.evaluations, step_loss.source_losses)

    def sum_number_over_ranks(self, value: float) -> float:
        """Return the sum of a number over all ranks, on every rank."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, device=self.accelerator.device, dtype=torch.float64)
        return float(self.accelerator.reduce(tensor))

    def _gradient_sync_context(self, is_last: bool) -> AbstractContextManager[None]:
        """Return a context that synchronises gradients between ranks only in the last micro-batch of a step."""
        return nullcontext() if is_last else ranks.no_gradient_sync(self.model, self.accelerator)


def build_forward_module(run: Run) -> nn.Module:
    """Load the run's model; return the module that forward passes call.

    Blocks are recomputed and compiled where the trainer asks for it, and distributed over the ranks.
    """
    trainer, model = run.trainer, run.load_model()
    if trainer.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    named = Anatomy(model).blocks if trainer.compile or trainer.strategy == "fsdp2" else ()
    blocks = [block for _, block in named]
    for block in blocks if trainer.compile else ():  # block by block: all blocks share one graph
        block.compile(dynamic=True)
    return ranks.distribute_model(model, run.accelerator, trainer.strategy, blocks)


def count_tokens(batch: Batch) -> int:
    """Return the tokens of a micro-batch without padding; without token ids, its number of examples."""
    for key in ("lengths", "attention_mask"):
        if key in batch:
            return int(batch[key].sum())
    return int(batch["num_supervised"])


def check_requires_grad(loss: Tensor) -> None:
    """Raise a clear error where `backward` would fail in autograd, as with adapters in Reformer.

    Raises:
        UserError: the loss does not depend on any trainable parameter.
    """
    if not loss.requires_grad:
        raise UserError(
            "the loss does not depend on any trainable parameter: the adapted layers are unused, or the "
            "model cuts the gradient at frozen inputs.",
            where="method",
            fix="method=full, or other method.target_modules",
        )
