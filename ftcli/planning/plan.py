"""The plan of a job: what it holds, how long it runs, what it leaves on disk, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError
from ftcli.planning.draft import Draft
from ftcli.planning.machine import Machine, target
from ftcli.planning.schedule import Schedule, schedule

if TYPE_CHECKING:
    from ftcli.planning.activations import Activations
    from ftcli.planning.memory import Estimate, Memory


@dataclass(frozen=True)
class Time:
    """Seconds of training, by the measured speed of `runs` earlier runs."""

    seconds: float
    tokens_per_second: float
    runs: int


class Plan:
    """Everything about a run that is known before it starts. No weights, no network, no GPU.

    Args:
        draft: a checked job's parts.
        gpu: GB of the GPU to plan for; None takes this machine as it is.
        schedule: of a job with the same data, where it is known already.
    """

    def __init__(
        self, draft: Draft, gpu: float | None = None, schedule: Schedule | None = None
    ) -> None:
        self.draft, self.gpu, self._schedule = draft, gpu, schedule

    @cached_property
    def machine(self) -> Machine:
        """What it is measured against."""
        return target(self.gpu)

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, epochs, tokens."""
        return self._schedule or schedule(self.draft)

    @cached_property
    def row_tokens(self) -> int:
        """Tokens of a full row: the longest document, or a whole bin, or `data.max_length`."""
        data = self.draft.data
        known = None if data.packing == "bins" else self.schedule.longest
        return known or int(data.max_length)

    @cached_property
    def estimate(self) -> Estimate:
        """Memory as a function of the micro-batch.

        Raises:
            UserError: model, method or optimizer cannot be built.
        """
        return estimate(self.draft, self.row_tokens, self.machine)

    @property
    def rows(self) -> float:
        """Full rows that weigh as much as the fullest micro-batch."""
        fullest = self.schedule.fullest
        known = fullest / self.row_tokens if fullest else None
        return known or self.documents * self.draft.trainer.batch_size

    @property
    def documents(self) -> int:
        """Rows of tokens that one row of `trainer.batch_size` becomes: two of a pair."""
        return 2 if getattr(self.draft.data, "pairs", False) else 1

    @cached_property
    def memory(self) -> Memory:
        """Memory of the fullest micro-batch, part by part."""
        return self.estimate.memory(self.rows)

    @property
    def fits(self) -> bool:
        """Whether it fits where it is planned for, a paged optimizer's state being elsewhere."""
        return self.memory.least <= self.machine.memory

    @cached_property
    def largest(self) -> dict[str, int]:
        """The largest `trainer.batch_size` that fits, with and without gradient checkpointing."""
        return {
            name: self.estimate.largest_rows(self.machine.memory, again) // self.documents
            for name, again in (("plain", False), ("gradient_checkpointing", True))
        }

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint: the trained weights and the optimizer's state."""
        return self.estimate.weights.trained_bytes + self.estimate.optimizer.bytes

    @property
    def disk(self) -> int:
        """Bytes that a run keeps: its newest checkpoints, the best one, and the final artefact."""
        trainer = self.draft.trainer
        kept = trainer.keep_last + (1 if trainer.eval_every else 0)
        steps, every = self.schedule.steps, trainer.save_every
        if steps is not None:
            kept = min(kept, -(-steps // every) if every else 1)
        weights = self.estimate.weights
        final = weights.adapter if self.draft.method.artefact == "adapter" else weights.base
        return kept * self.checkpoint + final

    @property
    def root(self) -> str:
        """The folder that runs go to."""
        return str((self.draft.config.get("run") or {}).get("dir", "runs"))

    @cached_property
    def time(self) -> Time | None:
        """How long training takes, where such runs were measured here; else None."""
        from ftcli.planning.throughput import measured

        total = self.schedule.total_tokens
        if total is None or self.machine.assumed:
            return None
        found = measured(self.draft.config, self.root)
        return Time(total / found[0], *found) if found else None

    def as_dict(self) -> dict[str, Any]:
        """The whole plan as plain data; sizes in bytes."""
        weights = asdict(self.estimate.weights)
        del weights["trained"]
        return {
            "job": str(self.draft.composed.job),
            "model": self.draft.source.path,
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


def estimate(draft: Draft, row_tokens: int, machine: Machine) -> Estimate:
    """Memory of a job by the micro-batch, rows being `row_tokens` long."""
    from ftcli.planning.memory import Estimate
    from ftcli.planning.moving import moving
    from ftcli.planning.optimizer_state import state_at_a_time
    from ftcli.planning.reference import second_copy
    from ftcli.planning.weights import weigh

    model = draft.model
    weights = weigh(model, draft.quantization, getattr(draft.source, "double_quant", True))
    if not weights.trainable:
        raise UserError("nothing is trainable.", where=draft.composed.where("method"))
    moves = moving(draft)
    try:
        one, two = _activations(draft, model, row_tokens, machine, moves.names)
    except (RuntimeError, NotImplementedError) as error:  # it reads values, which meta tensors lack
        one, two = _activations(draft, draft.on_cpu(error), row_tokens, machine, moves.names)
    config = model.config.get_text_config()
    width = getattr(config, "hidden_size", None) or max(getattr(config, "hidden_sizes", [0]))
    trainer = draft.trainer
    return Estimate(
        weights=weights,
        optimizer=state_at_a_time(draft.optimizer, weights.trained, moves, machine.kind),
        gradients=weights.bytes_of(moves.names),
        reference=second_copy(draft),
        one=one,
        two=two,
        row_tokens=row_tokens,
        vocabulary=getattr(config, "vocab_size", None) or config.num_labels,
        hidden=width,
        chunk=getattr(draft.objective, "chunk_size", row_tokens),
        checkpointing=trainer.gradient_checkpointing,
        accumulates=trainer.gradient_accumulation_steps > 1,
        runtime=machine.runtime,
        heap=machine.heap,
    )


def _activations(
    draft: Draft, model: Any, row_tokens: int, machine: Machine, moves: frozenset[str]
) -> list[Activations]:
    """What is kept of one and of two rows while these parameters move."""
    from ftcli.planning.activations import trace
    from ftcli.planning.moving import only
    from ftcli.planning.weights import quantised_weights

    packed = quantised_weights(model, draft.quantization)
    inputs = getattr(draft.source, "example_inputs", lambda rows: None)
    with only(model, moves):
        return [
            trace(model, rows, row_tokens, draft.autocast, machine.kind, packed, inputs(rows))
            for rows in (1, 2)
        ]


def make(job: str, overrides: Sequence[str] = (), gpu: float | None = None) -> Plan:
    """Compose, check and plan a job.

    Raises:
        UserError: the job is not sound.
    """
    from ftcli.config import compose, validate

    composed = compose(job, overrides)
    validate(composed)
    return Plan(Draft(composed, gpu is not None), gpu)
