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
from ftcli.core.errors import UserError
from ftcli.core.row_format import RowFormat

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from ftcli.core.callback import Callback
    from ftcli.core.run_dir import RunDir

PROOF = "proof.json"  # the row format, as measured before the first step


class Run:
    """The objects of one configuration, as `ftcli.run.build` builds them. `load_model` loads the model.

    Args:
        config: the resolved configuration as plain dicts.
        parts: group -> its object; for `penalty`, `callback`, `eval` and `logger`, name -> object.
        dir: directory of the run; None for a run that writes nothing.
    """

    def __init__(
        self, config: dict[str, Any], parts: Mapping[str, Any], dir: RunDir | None = None
    ) -> None:
        self.config, self.dir = config, dir
        self.seed = int(config.get("seed", 0))
        self.step = 0
        self.row_format: RowFormat | None = None
        self._model: Any = None
        self.started = time.time()
        self.model_source, self.data, self.method = parts["model"], parts["data"], parts["method"]
        self.objective, self.trainer = parts["objective"], parts["trainer"]
        self.optimizer, self.scheduler = parts["optimizer"], parts["scheduler"]
        self.trainable, self.pipeline = parts.get("trainable"), parts.get("pipeline")
        self.penalties: dict[str, Any] = parts.get("penalty") or {}
        self.evaluators: dict[str, Any] = parts.get("eval") or {}
        self.loggers: dict[str, Any] = parts.get("logger") or {}
        self.named_callbacks: dict[str, Any] = parts.get("callback") or {}

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
        """Load the base, measure its row format, let the method prepare it; return the model.

        Seeds the generators of Python, numpy and torch. What is drawn from them, in this order:

        1. weights that no file holds, by `model_source.load` (`weights: random`, a new head);
        2. nothing by the measurement of the row format;
        3. the initial weights of an adapter, by `method.prepare`;
        4. after this call, in `Trainer.build_loop`: what the optimizer draws when it is built, then what the
           callbacks draw in `setup`, in the order of `callbacks`;
        5. in each step: what callbacks, sampling and dropout draw. Evaluation restores the generators.

        A second call returns the same model at once: it neither seeds nor loads.

        Raises:
            UserError: the base is not the recorded one, cannot be loaded, or computes wrong losses in every row format.
        """
        if self._model is not None:
            return self._model
        from accelerate.utils import set_seed

        base_check = record_or_check_base(self)
        set_seed(self.seed)
        self._use_row_format(known := self._read_row_format())
        sharded = self.trainer.strategy == "fsdp2" and self.accelerator.num_processes > 1
        # a whole model need not fit on a device: the parts of a sharded one go there in `build_loop`
        base = self.model_source.load(device="cpu") if sharded else self.model_source.load()
        if base_check == "files missing":  # `load` has downloaded them
            record_or_check_base(self)
        if not (sharded or getattr(base, "is_quantized", False)):
            base = base.to(self.accelerator.device)
        if known is None:
            self._measure_row_format(base)
        self._model = self.method.prepare(base)
        return self._model

    def _measure_row_format(self, base: Any) -> None:
        """Measure which row formats the base computes correctly, choose the fastest, and record it.

        The base is measured before the method adapts it, because the reference is the forward pass of the
        library's own class. Methods do not change which tokens a layer attends to, so the result also
        holds for the adapted model.
        """
        objective = self.objective.row_format_objective()
        if (
            objective is None
            or not hasattr(self.model_source, "measure_row_format")
            or not hasattr(self.data, "use_row_format")
        ):
            return
        packing = self.data.packing if self.method.packable else "none"
        outcome = self.model_source.measure_row_format(
            base, packing, self.data.max_length, objective
        )
        outcome = ranks.broadcast_from_main(self.accelerator, outcome)
        self._use_row_format(outcome)
        if self.dir is not None and self.accelerator.is_main_process:
            write_json(self.dir.path / PROOF, asdict(outcome))

    def _read_row_format(self) -> RowFormat | None:
        """The row format of proof.json, which a resumed or evaluated run keeps; None without the file."""
        path = self.dir.path / PROOF if self.dir is not None else None
        if path is None or not path.exists():
            return None
        return RowFormat(**json.loads(path.read_text(encoding="utf-8")))

    def _use_row_format(self, row_format: RowFormat | None) -> None:
        """Set the row format of batches and the attention of models that are loaded from now on."""
        self.row_format = row_format
        if row_format is not None:
            self.data.use_row_format(row_format.packing, row_format.reading)
            self.model_source.use_attention(row_format.attention)

    def build_loader(self, rank: int = 0, world: int = 1) -> Any:
        """Training batches in the order of this run's seed, in the row format that its model reads.

        Raises:
            RuntimeError: `data.packing` is auto and `load_model`, which decides it, has not been called.
        """
        if getattr(self.data, "packing", None) == "auto" and self._model is None:
            raise RuntimeError("the row format is not known yet: call run.load_model() first.")
        return self.data.loader(
            "train", self.tokenizer, batch_size=self.trainer.batch_size, seed=self.seed,
            shuffle=True, rank=rank, world=world,
        )  # fmt: skip

    def callbacks(self) -> dict[str, Callback]:
        """Return the callbacks of the configuration by name, in the order in which they are called."""
        parts: dict[str, Callback] = {"method": self.method}
        if self.trainable is not None:
            parts["trainable"] = self.trainable
        parts["objective"] = self.objective
        parts |= {f"penalty.{name}": penalty for name, penalty in self.penalties.items()}
        parts["optimizer"] = self.optimizer
        parts |= {f"callback.{name}": part for name, part in self.named_callbacks.items()}
        return parts | {f"logger.{name}": logger for name, logger in self.loggers.items()}

    def trained_state(self) -> dict[str, Tensor]:
        """Return the tensors that the method trains, by name."""
        return self.method.state(self.model)

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

        before, parts = random_state(), list(self.callbacks().values())
        for part in parts:
            part.eval_mode()
        try:
            yield
        finally:
            for part in reversed(parts):
                part.train_mode()
            set_random_state(before)

    @contextmanager
    def without_directory(self) -> Iterator[None]:
        """Write nothing in the block: the first rank writes what all compute."""
        directory, self.dir = self.dir, None
        try:
            yield
        finally:
            self.dir = directory

    def locate_row(self, row: int) -> str:
        """Return file and line of a training row; `row N` where the data cannot tell."""
        try:
            return str(self.data.prepare("train", self.tokenizer).origin(row))
        except (UserError, IndexError):
            return f"row {row}"
