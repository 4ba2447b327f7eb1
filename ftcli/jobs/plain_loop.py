"""The loop that `ftcli bench --against plain` compares with: transformers + peft as their own examples write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ftcli.core.errors import UserError
from ftcli.data.loader import collate_padded
from ftcli.jobs.bench import Clock
from ftcli.methods.full import Full
from ftcli.methods.peft import Peft
from ftcli.models.causal_lm import CausalLMSource
from ftcli.objectives.causal_lm import NextTokenPrediction
from ftcli.optimizers.library import LibraryOptimizer
from ftcli.run.build import build_run
from ftcli.trainable.base import Trainable

if TYPE_CHECKING:
    from ftcli.core.run import Run

INPUTS = ("input_ids", "attention_mask", "labels")


class PlainLoop:
    """Trains on batches that are padded to their longest row, with all logits and the model's own loss.

    The rows and their order are those of the run. Model, adapter, optimizer, precision and gradient
    checkpointing are the job's; attention is that of transformers; the rate is constant.

    Raises:
        UserError: the job is no supervised finetuning of a language model by peft or of all weights, or
            has parts besides.
    """

    def __init__(self, run: Run) -> None:
        _refuse_others(run)
        run.load_model()  # decides how rows are packed, without which there is no loader
        self.prepared, loader = run.data.prepare("train", run.tokenizer), run.build_loader()
        self.pad = run.tokenizer.pad_token_id
        count = run.trainer.gradient_accumulation_steps
        self.steps: list[list[list[int]]] = []  # rows of each micro-batch of each step
        epoch = 0
        while len(self.steps) < run.trainer.max_steps:
            batches = loader.list_batch_indices(epoch)
            self.steps += [batches[i : i + count] for i in range(0, len(batches), count)]
            epoch += 1
        run.model = None  # the rounds load their own

    def __call__(self, config: dict[str, Any]) -> Clock:
        """Train as many steps as the configuration says; returns the times."""
        clock, run = Clock(), build_run(config)
        torch.manual_seed(run.seed)
        device = run.accelerator.device
        run.model_source.use_attention("library")
        model = run.method.prepare(run.model_source.load(str(device))).train()
        if run.trainer.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        optimizer = run.optimizer_builder.build(named, device)
        trained, limit = [p for _, p in named], run.trainer.max_grad_norm
        for micro_batches in self.steps[: run.trainer.max_steps]:
            tokens = clock.tokens[-1]
            for batch in self._collate(micro_batches):
                tokens += int(batch["attention_mask"].sum())
                with run.autocast():
                    loss = model(**{k: v.to(device) for k, v in batch.items()}).loss
                (loss / len(micro_batches)).backward()
            if limit is not None:
                torch.nn.utils.clip_grad_norm_(trained, limit)
            optimizer.step()
            optimizer.zero_grad()
            clock.record(tokens)
        return clock

    def _collate(self, micro_batches: list[Any]) -> Iterator[dict[str, torch.Tensor]]:
        for rows in micro_batches:
            batch = collate_padded(self.prepared, rows, self.pad)
            yield {name: batch[name] for name in INPUTS}


def _refuse_others(run: Run) -> None:
    """Refuse a job to which a plain loop has no counterpart, by what it has in addition."""
    objective = type(run.objective)
    more = [
        name
        for name, unlike in (
            (
                f"model={type(run.model_source).__name__}",
                type(run.model_source) is not CausalLMSource,
            ),
            (f"objective={objective.__name__}", objective is not NextTokenPrediction),
            (f"method={type(run.method).__name__}", type(run.method) not in (Peft, Full)),
            ("trainable", type(run.trainable) not in (type(None), Trainable)),
            ("pipeline", run.pipeline is not None),
            ("penalty", bool(run.penalties)),
            *((f"callback.{name}", True) for name in run.configured_callbacks),
            ("optimizer", type(run.optimizer_builder) is not LibraryOptimizer),
            ("data.packing=bins", getattr(run.data, "packing", None) == "bins"),
            ("trainer.compile", run.trainer.compile),
        )
        if unlike
    ]
    if more:
        raise UserError(
            f"a plain loop of transformers and peft has no counterpart to {', '.join(more)}.",
            where="--against",
            fix="ftcli bench JOB, without --against",
        )
