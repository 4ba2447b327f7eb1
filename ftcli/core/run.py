"""The run: the objects that a configuration names, and the model that they work on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.core import ranks
from ftcli.core.atomic import write_json
from ftcli.core.base_model import record_or_check_base
from ftcli.core.batch_layout import BatchLayout
from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from ftcli.core.callback import Callback
    from ftcli.core.run_dir import RunDir

PROOF = "proof.json"  # the batch layout, as measured before the first step


class Run:
    """The objects of one configuration, as `ftcli.run.build` builds them. `load_model` loads the model.

    Args:
        config: the resolved configuration as plain dicts.
        components: group -> its object; for `penalty`, `callback`, `eval` and `logger`, name -> object.
        dir: directory of the run; None for a run that writes nothing.
    """

    def __init__(
        self, config: dict[str, Any], components: Mapping[str, Any], dir: RunDir | None = None
    ) -> None:
        self.config, self.dir = config, dir
        self.seed = int(config.get("seed", 0))
        self.evaluated_step = (
            0  # of the last evaluation or loaded checkpoint; `State.step` counts in training
        )
        self.batch_layout: BatchLayout | None = None
        self._model: Any = None
        self.created_at = time.time()
        self.model_source, self.data = components["model"], components["data"]
        self.method = components["method"]
        self.objective, self.trainer = components["objective"], components["trainer"]
        self.optimizer_builder, self.scheduler = components["optimizer"], components["scheduler"]
        # chooses which of the method's parameters each step trains
        self.trainable = components.get("trainable")
        # takes the place of `Trainer.fit`: another sequence of training, such as rounds over clients
        self.pipeline = components.get("pipeline")
        self.penalties: dict[str, Any] = components.get("penalty") or {}
        self.evaluators: dict[str, Any] = components.get("eval") or {}
        self.loggers: dict[str, Any] = components.get("logger") or {}
        self.configured_callbacks: dict[str, Any] = components.get("callback") or {}

    @cached_property
    def accelerator(self) -> Accelerator:
        """Devices and ranks."""
        return ranks.build_accelerator()

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or the processor of a model of images or sounds."""
        return self.model_source.load_tokenizer()

    @property
    def model(self) -> Any:
        """The model that `load_model` returned, or the one that was assigned since.

        Raises:
            RuntimeError: `load_model` has not been called.
        """
        if self._model is None:
            raise RuntimeError("the run has no model yet: call run.load_model() first.")
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        self._model = model

    def load_model(self) -> Any:
        """Load the base, select its batch layout, let the method prepare it; return the model.

        Seeds the generators of Python, numpy and torch. What is drawn from them, in this order:

        1. weights that no file holds, by `model_source.load` (`weights: random`, a new head);
        2. nothing by the selection of the batch layout;
        3. the initial weights of an adapter, by `method.prepare`;
        4. after this call, in `Trainer.prepare_training`: what the optimizer draws when it is built, then what the
           callbacks draw in `setup`, in the order of `callbacks`;
        5. in each step: what callbacks, sampling and dropout draw. Evaluation restores the generators.

        A second call returns the same model at once: it neither seeds nor loads.

        Raises:
            UserError: the base is not the recorded one, cannot be loaded, or computes wrong losses in every batch layout.
        """
        if self._model is not None:
            return self._model
        from accelerate.utils import set_seed

        base_check = record_or_check_base(self)
        set_seed(self.seed)
        self._use_batch_layout(saved_layout := self._read_batch_layout())
        sharded = self.trainer.strategy == "fsdp2" and self.accelerator.num_processes > 1
        # a whole model need not fit on a device: the parts of a sharded one go there in `prepare_training`
        base = self.model_source.load(device="cpu") if sharded else self.model_source.load()
        if base_check == "files missing":  # `load` has downloaded them
            record_or_check_base(self)
        if not (sharded or getattr(base, "is_quantized", False)):
            base = base.to(self.accelerator.device)
        if saved_layout is None:
            self._select_batch_layout(base)
        self._model = self.method.prepare(base)
        return self._model

    def _select_batch_layout(self, base: Any) -> None:
        """Select the fastest batch layout that reproduces the losses of single rows, and record it.

        The base is measured before the method adapts it, because the reference is the forward pass of the
        library's own class. Methods do not change which tokens a layer attends to, so the result also
        holds for the adapted model.
        """
        objective = self.objective.layout_check_objective()
        if (
            objective is None
            or not hasattr(self.model_source, "select_batch_layout")
            or not hasattr(self.data, "use_batch_layout")
        ):
            return
        packing = self.data.packing if self.method.packable else "none"
        layout = self.model_source.select_batch_layout(
            base, packing, self.data.max_length, objective
        )
        layout = ranks.broadcast_from_main(self.accelerator, layout)
        self._use_batch_layout(layout)
        if self.dir is not None and self.accelerator.is_main_process:
            write_json(self.dir.path / PROOF, asdict(layout))

    def _read_batch_layout(self) -> BatchLayout | None:
        """The batch layout of proof.json, which a resumed or evaluated run keeps; None without the file."""
        path = self.dir.path / PROOF if self.dir is not None else None
        if path is None or not path.exists():
            return None
        return BatchLayout.from_record(json.loads(path.read_text(encoding="utf-8")))

    def _use_batch_layout(self, batch_layout: BatchLayout | None) -> None:
        """Set the batch layout of batches and the attention of models that are loaded from now on."""
        self.batch_layout = batch_layout
        if batch_layout is not None:
            self.data.use_batch_layout(batch_layout.packing, batch_layout.document_isolation)
            self.model_source.use_attention(batch_layout.attention)

    def build_loader(self, rank: int = 0, world: int = 1) -> Any:
        """Training batches in the order of this run's seed, in the batch layout of its model.

        Raises:
            RuntimeError: `data.packing` is auto and `load_model`, which decides it, has not been called.
        """
        if getattr(self.data, "packing", None) == "auto" and self._model is None:
            raise RuntimeError("the batch layout is not known yet: call run.load_model() first.")
        return self.data.loader(
            "train", self.tokenizer, batch_size=self.trainer.batch_size, seed=self.seed,
            shuffle=True, rank=rank, world=world,
        )  # fmt: skip

    def callbacks(self) -> dict[str, Callback]:
        """Return the callbacks of the configuration by name, in the order in which they are called."""
        callbacks: dict[str, Callback] = {"method": self.method}
        if self.trainable is not None:
            callbacks["trainable"] = self.trainable
        callbacks["objective"] = self.objective
        callbacks |= {f"penalty.{name}": penalty for name, penalty in self.penalties.items()}
        callbacks["optimizer"] = self.optimizer_builder
        callbacks |= {f"callback.{name}": c for name, c in self.configured_callbacks.items()}
        return callbacks | {f"logger.{name}": logger for name, logger in self.loggers.items()}

    def get_trained_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the method trains, by name."""
        return self.method.get_trained_tensors(self.model)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the run's precision for forward passes."""
        import torch

        if self.trainer.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Switch the model to the weights that are evaluated and saved, inside the block (averaged ones under EMA).

        Random generators are restored afterwards, so that evaluations do not change what is trained.
        """
        from ftcli.core.rng import random_state, set_random_state

        before, callbacks = random_state(), list(self.callbacks().values())
        for callback in callbacks:
            callback.swap_in_eval_weights()
        try:
            yield
        finally:
            for callback in reversed(callbacks):
                callback.restore_training_weights()
            set_random_state(before)

    @contextmanager
    def without_directory(self) -> Iterator[None]:
        """Write nothing in the block: the first rank writes what all compute."""
        directory, self.dir = self.dir, None
        try:
            yield
        finally:
            self.dir = directory

    def locate_example(self, index: int) -> str:
        """Return file and line of an example of the prepared training split; `example N` where the data cannot tell."""
        try:
            return str(self.data.prepare("train", self.tokenizer).origin(index))
        except (UserError, IndexError):
            return f"example {index}"
