"""What the loop holds while it turns: the live objects of one run on this process's device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ftcli.core.callback import Callback, State
from ftcli.core.errors import UserError
from ftcli.trainer.guard import Guard
from ftcli.trainer.loss import StepLoss
from ftcli.trainer.meter import Meter
from ftcli.trainer.signals import Requests
from ftcli.trainer.spikes import Spikes

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftcli.core.run import Run
    from ftcli.data.loader import Loader

Batch = dict[str, Any]


@dataclass
class Loop:
    """The run, its optimizer and its callbacks.

    Attributes:
        model: what forward passes go through: the run's model, wrapped where there are many ranks.
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
        """The first step of this process comes next: start the clock, and say so in the record."""
        if self.accelerator.is_main_process and self.run.dir is not None:
            self.run.dir.mark_started(self.state.step)
        self.meter.begin()

    def loader(self) -> Loader:
        """The training batches of this process."""
        return self.run.loader(self.accelerator.process_index, self.accelerator.num_processes)

    def run_callbacks(self, hook: str, *args: Any) -> None:
        """Call one hook of every callback, in order."""
        for callback in self.callbacks.values():
            getattr(callback, hook)(self.state, *args)

    def backward(self, batches: Sequence[Batch]) -> Tensor:
        """Gradients of one step over all its micro-batches; returns the step's loss, detached."""
        ranks = self.accelerator.num_processes
        step = StepLoss(self.run, self.model, batches, self._sum_number_over_ranks, ranks)
        total = torch.zeros((), device=self.accelerator.device)
        for index, batch in enumerate(batches):
            with self._sync_gradients(last=index == len(batches) - 1):
                loss = step(batch)
                require_gradient(loss)
                # data parallelism averages gradients over ranks; the sum is wanted
                (loss * ranks if ranks > 1 else loss).backward()
            total += loss.detach()
        self.meter.record_figures(step.figures, step.forwards)
        return self._sum_over_ranks(total)

    def zeroth_order_step(self, batches: Sequence[Batch], lr: float) -> tuple[Tensor, Tensor]:
        """A step of an optimizer that asks for losses and takes no gradient.

        Returns one of the losses, and the sum of all, which is finite if every one is.

        What it asks is a pure function of the weights: the same micro-batches, nothing drawn at
        random, no counter moved.

        Args:
            lr: factor on every group's initial learning rate.
        """
        ranks = self.accelerator.num_processes
        step = StepLoss(self.run, self.model, batches, self._sum_number_over_ranks, ranks)
        self._set_lr(lr)
        self.model.eval()
        asked: list[Tensor] = []

        def closure() -> Tensor:
            asked.append(self._sum_over_ranks(step.total()))
            return asked[-1]

        optimizer: Any = (
            self.optimizer
        )  # torch says that a closure gives a float; a tensor waits for no device
        loss = optimizer.step(closure)
        self.model.train()
        self.meter.record_figures(step.figures, step.forwards)
        return torch.as_tensor(loss), torch.stack(asked).sum()

    def first_order_step(self, lr: float, max_norm: float | None) -> Tensor:
        """Clip, set the learning rate, take the optimizer's step; returns the gradient norm.

        Args:
            lr: factor on every group's initial learning rate.
        """
        if max_norm is None:
            norm = self.gradient_norm()
        else:
            norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.parameters, max_norm))
        self._set_lr(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def gradient_norm(self) -> Tensor:
        """L2 norm of all gradients."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def evaluate(self, periodic: bool = False) -> dict[str, float]:
        """Scores of the evaluators, under `eval.<score>`, logged and shown to all callbacks.

        Args:
            periodic: only the evaluators cheap enough to run during training.
        """
        self.meter.pause()
        run, scores = self.run, {}
        run.step = self.state.step
        chosen = {n: e for n, e in run.evaluators.items() if e.periodic or not periodic}
        if self.accelerator.is_main_process and chosen:
            with run.evaluating():
                for name, evaluator in chosen.items():
                    for key, value in evaluator(run).items():
                        free = f"eval.{key}" not in scores
                        scores[f"eval.{key}" if free else f"eval.{name}.{key}"] = value
            self.log({"step": self.state.step} | scores)
            self.run_callbacks("on_evaluate", {"step": self.state.step} | scores)
        scores = self.broadcast_from_main(scores)
        self.meter.begin()
        return scores

    def sync_stop_requests(self, requests: Requests) -> tuple[str | None, bool]:
        """What asks to stop, and whether to save now; the first rank's view, known to all."""
        if self.accelerator.num_processes == 1:
            return requests.stop, requests.save
        own = (requests.stop, requests.save) if self.accelerator.is_main_process else None
        return self.broadcast_from_main(own)

    def read_figures(self) -> dict[str, float]:
        """The meter's figures since the last log, those of objective and penalties of all ranks.

        Raises:
            NonFinite: a figure of a step was not finite.
        """
        return self.meter.read(self._mean_over_ranks)

    def log(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        if self.accelerator.is_main_process and self.run.dir is not None:
            self.run.dir.log(metrics | {"time": round(time.time() - self.run.started, 3)})

    def event(self, kind: str, **fields: Any) -> None:
        """Add a line to events.jsonl."""
        if self.accelerator.is_main_process and self.run.dir is not None:
            self.run.dir.event(kind, **fields)

    @property
    def guard(self) -> Guard:
        """What is done about a step that is not finite."""
        return cast(Guard, self.callbacks["guard"])

    @property
    def spikes(self) -> Spikes:
        """What is done about a loss that jumps."""
        return cast(Spikes, self.callbacks["spikes"])

    @property
    def uses_backward(self) -> bool:
        """Whether the optimizer steps by gradients."""
        return getattr(self.optimizer, "uses_backward", True)

    def _set_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _sum_over_ranks(self, total: Tensor) -> Tensor:
        return self.accelerator.reduce(total) if self.accelerator.num_processes > 1 else total

    def broadcast_from_main(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        if self.accelerator.num_processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def _mean_over_ranks(self, figures: dict[str, float]) -> dict[str, float]:
        """Each figure's mean over the ranks that have it: a reward may not apply to what one drew."""
        if self.accelerator.num_processes == 1:
            return figures
        from accelerate.utils import gather_object

        everywhere: list[dict[str, float]] = gather_object([figures])
        names = dict.fromkeys(name for figures in everywhere for name in figures)
        having = {name: [rank[name] for rank in everywhere if name in rank] for name in names}
        return {name: sum(values) / len(values) for name, values in having.items()}

    def _sum_number_over_ranks(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, device=self.accelerator.device, dtype=torch.float64)
        return float(self.accelerator.reduce(tensor))

    def _sync_gradients(self, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between ranks with the last micro-batch of a step only."""
        if last or self.accelerator.num_processes == 1:
            return nullcontext()
        return self.accelerator.no_sync(self.model)


def wrap_model(
    model: Any, accelerator: Accelerator, checkpointing: bool, compiled: bool
) -> nn.Module:
    """What forward passes go through: the model, its blocks compiled, wrapped for several ranks."""
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if compiled:
        from ftcli.models.anatomy import Anatomy

        for _, block in Anatomy(model).blocks:  # block by block: one graph serves them all
            block.compile(dynamic=True)
    return accelerator.prepare_model(model) if accelerator.num_processes > 1 else model


def count_tokens(batch: Batch) -> int:
    """Tokens of a micro-batch, padding not counted; of what has none, the things that are learned."""
    for key in ("lengths", "attention_mask"):
        if key in batch:
            return int(batch[key].sum())
    return int(batch["count"])


def require_gradient(loss: Tensor) -> None:
    """Raise where backward would end in an error of autograd, as with adapters in Reformer.

    Raises:
        UserError: the loss depends on nothing that is trained.
    """
    if not loss.requires_grad:
        raise UserError(
            "no gradient of the loss reaches what is trained: the model passes none on where its input "
            "is frozen, or does not use these layers.",
            where="method",
            fix="method=full, or other method.target_modules",
        )
