"""The plan of a job: what it holds, how long it runs, what it leaves on disk, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.planning.machine import Machine, find_machine
from ftcli.planning.meta_run import MetaRun
from ftcli.planning.schedule import Schedule, compute_schedule, find_speed

if TYPE_CHECKING:
    from ftcli.planning.activations import Activations
    from ftcli.planning.memory import Estimate, Memory


@dataclass(frozen=True)
class Time:
    """Seconds of training at the median speed of `runs` earlier runs."""

    seconds: float
    tokens_per_second: float
    runs: int


class Plan:
    """Figures of a run before it starts, computed without weights, network or GPU.

    Args:
        meta_run: the job on the meta device.
        gpu: GB of the GPU to plan for; None takes this machine as it is.
        schedule: schedule of a job with the same data, where that is known already.
    """

    def __init__(
        self, meta_run: MetaRun, gpu: float | None = None, schedule: Schedule | None = None
    ) -> None:
        self.meta_run, self.gpu, self._schedule = meta_run, gpu, schedule

    @cached_property
    def machine(self) -> Machine:
        """The machine that the job has to fit."""
        return find_machine(self.gpu)

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, epochs and tokens of the run."""
        return self._schedule or compute_schedule(self.meta_run)

    @cached_property
    def row_tokens(self) -> int:
        """Tokens of a full row: the longest document, or a whole bin, or `data.max_length`."""
        data = self.meta_run.data
        known = None if data.packing == "bins" else self.schedule.longest
        return known or int(data.max_length)

    @cached_property
    def estimate(self) -> Estimate:
        """Memory as a function of the micro-batch.

        Raises:
            UserError: model, method or optimizer cannot be built.
        """
        return estimate_memory(self.meta_run, self.row_tokens, self.machine)

    @property
    def rows(self) -> float:
        """Full rows that count_weights as much as the fullest micro-batch."""
        fullest = self.schedule.fullest
        known = fullest / self.row_tokens if fullest else None
        return known or self.documents * self.meta_run.trainer.batch_size

    @property
    def documents(self) -> int:
        """Rows of tokens that one row of `trainer.batch_size` becomes: two for a pair of answers."""
        return 2 if getattr(self.meta_run.data, "pairs", False) else 1

    @cached_property
    def memory(self) -> Memory:
        """Memory of the fullest micro-batch, part by part."""
        return self.estimate.memory(self.rows)

    @property
    def fits(self) -> bool:
        """Whether it fits the machine, a paged optimizer's state being on the host."""
        return self.memory.required <= self.machine.memory

    @cached_property
    def largest(self) -> dict[str, int]:
        """The largest `trainer.batch_size` that fits, with and without gradient checkpointing."""
        return {
            name: self.estimate.largest_rows(self.machine.memory, checkpointing) // self.documents
            for name, checkpointing in (("plain", False), ("gradient_checkpointing", True))
        }

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint: the trained weights, the state of the optimizer and of callbacks."""
        estimate = self.estimate
        kept = estimate.optimizer.bytes + estimate.callbacks.checkpoint
        return estimate.weights.trained_bytes + kept

    @property
    def disk(self) -> int:
        """Bytes that a run keeps: its newest checkpoints, the best one, and the final artefact."""
        trainer = self.meta_run.trainer
        kept = trainer.keep_last + (1 if trainer.eval_every else 0)
        steps, every = self.schedule.steps, trainer.save_every
        if steps is not None:
            kept = min(kept, -(-steps // every) if every else 1)
        weights = self.estimate.weights
        final = weights.adapter if self.meta_run.method.artefact == "adapter" else weights.base
        return kept * self.checkpoint + final

    @property
    def root(self) -> str:
        """The folder that holds run directories."""
        return str((self.meta_run.config.get("run") or {}).get("dir", "runs"))

    @cached_property
    def time(self) -> Time | None:
        """How long training takes; None without a measured run of this kind on this machine."""
        total = self.schedule.total_tokens
        if total is None or self.machine.assumed:
            return None
        speed = find_speed(self.meta_run.config, self.root)
        return Time(total / speed[0], *speed) if speed else None

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data; sizes in bytes."""
        weights = asdict(self.estimate.weights)
        del weights["trained"]
        return {
            "job": str(self.meta_run.composed.job_file),
            "model": self.meta_run.source.path,
            "parameters": weights.pop("parameters"),
            "trainable": weights.pop("trainable"),
            "bits_per_quantised_weight": self.estimate.weights.bits,
            "weights": weights,
            "machine": asdict(self.machine),
            "row_tokens": self.row_tokens,
            "memory": self.memory.as_dict(),
            "fits": self.fits,
            "largest_micro_batch": self.largest,
            "schedule": asdict(self.schedule) | {"total_tokens": self.schedule.total_tokens},
            "disk": {"checkpoint": self.checkpoint, "run": self.disk},
            "time": asdict(self.time) if self.time else None,
        }


def estimate_memory(meta_run: MetaRun, row_tokens: int, machine: Machine) -> Estimate:
    """Estimate the memory of a job as a function of the micro-batch.

    Args:
        row_tokens: tokens of a full row.

    Raises:
        UserError: nothing is trainable, or a part of the job does not fit the model.
    """
    from ftcli.planning.memory import Estimate
    from ftcli.planning.optimizer_state import measure_peak_state
    from ftcli.planning.weights import (
        count_callbacks,
        count_weights,
        find_active_parameters,
        weigh_reference,
    )

    model = meta_run.model
    weights = count_weights(
        model, meta_run.quantization, getattr(meta_run.source, "double_quant", True)
    )
    if not weights.trainable:
        raise UserError("nothing is trainable.", where=meta_run.composed.where("method"))
    active = find_active_parameters(meta_run)
    try:
        one_row, two_rows = _trace_rows(meta_run, model, row_tokens, machine, active.names)
    except (RuntimeError, NotImplementedError) as error:  # it reads values, which meta tensors lack
        one_row, two_rows = _trace_rows(
            meta_run, meta_run.prepare_on_cpu(error), row_tokens, machine, active.names
        )
    config = model.config.get_text_config()
    width = getattr(config, "hidden_size", None) or max(getattr(config, "hidden_sizes", [0]))
    trainer = meta_run.trainer
    return Estimate(
        weights=weights,
        optimizer=measure_peak_state(meta_run.optimizer, weights.trained, active, machine.kind),
        callbacks=count_callbacks(meta_run, weights.trained),
        gradients=weights.bytes_of(active.names),
        reference=weigh_reference(meta_run),
        one_row=one_row,
        two_rows=two_rows,
        row_tokens=row_tokens,
        vocabulary=getattr(config, "vocab_size", None) or config.num_labels,
        hidden=width,
        chunk=getattr(meta_run.objective, "chunk_size", row_tokens),
        checkpointing=trainer.gradient_checkpointing,
        accumulates=trainer.gradient_accumulation_steps > 1,
        runtime=machine.runtime,
        heap=machine.heap,
    )


def _trace_rows(
    meta_run: MetaRun, model: Any, row_tokens: int, machine: Machine, active: frozenset[str]
) -> list[Activations]:
    """Trace one and two rows while only the parameters `active` require a gradient."""
    from ftcli.planning.activations import trace_activations
    from ftcli.planning.weights import find_quantised_weights, freeze_inactive

    packed = find_quantised_weights(model, meta_run.quantization)
    inputs = getattr(meta_run.source, "example_inputs", lambda rows: None)
    with freeze_inactive(model, active):
        return [
            trace_activations(
                model, rows, row_tokens, meta_run.autocast, machine.kind, packed, inputs(rows)
            )
            for rows in (1, 2)
        ]


def make_plan(job: str, overrides: Sequence[str] = (), gpu: float | None = None) -> Plan:
    """Compose and validate a job and return its plan.

    Raises:
        UserError: the configuration is not valid.
    """
    from ftcli.config import compose, validate_and_convert

    composed = compose(job, overrides)
    validate_and_convert(composed)
    return Plan(MetaRun(composed, gpu is not None), gpu)
