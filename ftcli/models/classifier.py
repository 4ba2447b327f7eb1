"""A transformers model that sorts images, sounds or texts into classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from ftcli.core.errors import UserError
from ftcli.models import hub
from ftcli.models.causal_lm import Dtype, local_device
from ftcli.models.heads import (
    declare_new_modules,
    draw_head,
    drop_head_misfits,
    find_head_modules,
    pool_by_mean,
)
from ftcli.models.pretrained import compare_files, load_pretrained
from ftcli.models.quantization import check_stored
from ftcli.models.strict import Extra
from ftcli.models.weight_files import WeightFiles, find_weight_files

Task = Literal["image", "audio", "text"]
LOADERS: dict[str, Any] = {
    "image": AutoModelForImageClassification,
    "audio": AutoModelForAudioClassification,
    "text": AutoModelForSequenceClassification,
}


@dataclass
class Classifier:
    """Any model of AutoModelForImage-, Audio- or SequenceClassification.

    A head for other classes than the checkpoint's is new: it is drawn from torch's generator, and
    every method trains it besides its own parameters.
    """

    path: str  # hub id, folder, or asset:NAME for one that ships
    task: Task = "image"  # what goes in
    labels: int | list[str] | None = None  # how many classes, or their names; null: the model's own
    head: Literal["auto", "reset", "keep"] = "auto"  # auto: new where the classes are other ones
    pool: Literal["model", "mean"] = "model"  # mean: the head sees the mean of all output tokens
    architecture: str | None = None  # shipped config that stands in where the hub is out of reach
    dtype: Dtype | Literal["auto"] = "float32"  # of the weights; auto: the precision's
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"  # way it is computed
    revision: str | None = None  # branch, tag or commit on the hub
    processor: str | None = None  # where preprocessing is described; null: path
    weights: Literal["pretrained", "random"] = "pretrained"  # random: new ones, for pretraining
    extra_weights: Extra = "refuse"  # tensors in the files that the model has no place for
    config: dict[str, Any] = field(default_factory=dict)  # values laid over the model's own config

    def load(self, device: str | None = None) -> PreTrainedModel:
        """The model with its weights, in eval mode.

        Args:
            device: null: the accelerator of this process, else the CPU.

        Raises:
            UserError: the model is missing or unreadable, its files do not hold exactly the
                parameters below the head, or it has no head that could be kept.
        """
        path, config = hub.resolve(self.path), self.hf_config()
        if self.weights == "random":
            return self._finished(self._from_config(config).eval(), config, True)

        check_stored(config, "none", self.name, device or local_device())

        def load(local: bool, key_mapping: dict[str, str]) -> Any:
            return LOADERS[self.task].from_pretrained(
                path,
                config=config,
                revision=self.revision or "main",
                dtype=self._dtype(config),
                attn_implementation=self.attention,
                device_map={"": device or local_device()},
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=local,
                # it asks the hub for an adapter besides, whatever local_files_only says
                adapter_kwargs={"local_files_only": local},
                key_mapping=key_mapping,
                ignore_mismatched_sizes=True,  # of a head for other classes; others are refused
                output_loading_info=True,
            )

        model, misfit, shapes = load_pretrained(path, self.revision, self._whole, load)
        drop_head_misfits(misfit, model).refuse(self.name, model, shapes, self.extra_weights)
        hub.set_origin(model, self.path)
        unread = [*misfit.missing, *misfit.mismatched]
        new = self._is_new(config, bool(unread))
        return self._finished(model.eval(), config, new, sorted(unread))

    def check_files(self) -> str:
        """See from the headers of its files whether the model can be loaded; returns a note, or "".

        Raises:
            UserError: what is missing, or does not fit, besides the head.
        """
        path, config = hub.resolve(self.path), self.hf_config()
        stored = check_stored(config, "none", self.name, local_device())
        seen = None if stored else compare_files(path, self.revision, self._whole)
        if seen is None:
            return f"stored quantised ({stored})" if stored else ""
        model, misfit, shapes, note = seen
        drop_head_misfits(misfit, model).refuse(self.name, model, shapes, self.extra_weights)
        return note

    def weight_files(self) -> list[WeightFiles]:
        """The files that are loaded, as far as they are on this machine."""
        if self.weights == "random":
            return []
        files = find_weight_files(hub.resolve(self.path), self.revision)
        return [files] if files else []

    def meta(self) -> PreTrainedModel:
        """The model on the meta device: every shape, no memory."""
        config, model = self.hf_config(), self._whole()
        new = self.weights == "random" or self._is_new(config, not self._has_head())
        return self._finished(model, config, new)

    def load_tokenizer(self) -> Any:
        """What turns an image or a sound into tensors, or the tokenizer of a text model.

        Raises:
            UserError: there is no description of it.
        """
        key = "model.processor" if self.processor else "model.path"
        path = hub.resolve(self.processor or self.path, key)
        revision = None if self.processor else self.revision
        if self.architecture is not None and not hub.is_local(path):
            path = str(hub.find_architecture(self.architecture))
        return hub.load_cached_first(
            path, revision, lambda local: self._read_processor(path, revision, local)
        )

    def hf_config(self) -> PreTrainedConfig:
        """The model's configuration with `labels` and `config` laid over it.

        Raises:
            UserError: it has no such key.
        """
        config = self._own_config()
        for key, value in self.config.items():
            if not hasattr(config, key):
                raise UserError(
                    f"the configuration of {self.name} has no {key!r}.", f"model.config.{key}"
                )
            setattr(config, key, value)
        if self.labels is not None:
            names = self.labels if isinstance(self.labels, list) else range(self.labels)
            config.id2label = {i: str(name) for i, name in enumerate(names)}
            config.label2id = {name: i for i, name in config.id2label.items()}
        if self.pool != "model":
            config.pool = self.pool
        return config

    def example_inputs(self, rows: int) -> dict[str, torch.Tensor]:
        """Inputs of `rows` examples, zeros of the shapes that the model is made for.

        Raises:
            UserError: the configuration does not say how large they are.
        """
        config: Any = self.hf_config()
        if self.task == "text":
            return {"input_ids": torch.zeros(rows, config.max_position_embeddings).long()}
        if self.task == "image" and hasattr(config, "image_size"):
            size = config.image_size
            sides = list(size) if isinstance(size, list | tuple) else [size, size]
            return {"pixel_values": torch.zeros(rows, config.num_channels, *sides)}
        if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
            return {"input_values": torch.zeros(rows, config.max_length, config.num_mel_bins)}
        raise UserError(f"{self.name} does not say how large its inputs are.", "model.path")

    @property
    def name(self) -> str:
        """What messages call the model."""
        return Path(self.path.removeprefix("asset:")).name

    def _own_config(self) -> PreTrainedConfig:
        return hub.load_config(hub.resolve(self.path), self.revision, self.architecture)

    def _has_head(self) -> bool:
        """Whether the checkpoint has a head for as many classes; its config says which class it is."""
        own, wanted = self._own_config(), self.hf_config()
        kinds = own.architectures or []
        return any("Classification" in kind for kind in kinds) and (
            own.num_labels == wanted.num_labels
        )

    def _is_new(self, config: PreTrainedConfig, unread: bool) -> bool:
        if self.head == "keep" and unread:
            raise UserError(
                f"{self.name} has no head for {config.num_labels} classes that could be kept.",
                where="model.head",
                fix="model.head=auto, or model.labels=null for its own classes",
            )
        return self.head == "reset" or unread

    def _finished(
        self,
        model: PreTrainedModel,
        config: PreTrainedConfig,
        new: bool,
        unread: list[str] = [],  # noqa: B006
    ) -> PreTrainedModel:
        """The model with a new head where it is one, and pooled as the configuration says.

        Args:
            unread: parameters that the checkpoint did not have, such as those of a pooler.
        """
        head = find_head_modules(model)
        if new:
            others = {name.rpartition(".")[0] for name in unread}
            others = {name for name in others if name.split(".")[0] not in head}
            declare_new_modules(model, [*head, *sorted(others)])
            if self.weights == "pretrained" and model.device.type != "meta":
                draw_head(model, head)
        if getattr(config, "pool", "model") == "mean":
            pool_by_mean(model)
        return model

    def _whole(self) -> PreTrainedModel:
        """The model on the meta device, its head as its class makes it."""
        with torch.device("meta"):
            return self._from_config(self.hf_config())

    def _from_config(self, config: PreTrainedConfig) -> PreTrainedModel:
        model: PreTrainedModel = LOADERS[self.task].from_config(
            config,
            dtype=self._dtype(config),
            attn_implementation=self.attention,
            trust_remote_code=False,
        )
        return model

    def _dtype(self, config: PreTrainedConfig) -> torch.dtype:
        """The weights' dtype; a run decides `auto` before, elsewhere it is that of the files."""
        if self.dtype == "auto":
            return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        return getattr(torch, self.dtype)

    def _read_processor(self, path: str, revision: str | None, local: bool) -> Any:
        options: dict[str, Any] = {"revision": revision or "main", "local_files_only": local}
        options["trust_remote_code"] = False
        if self.task == "image":  # one backend everywhere: they resize differently
            return AutoImageProcessor.from_pretrained(path, backend="pil", **options)
        kind = AutoFeatureExtractor if self.task == "audio" else AutoTokenizer
        return kind.from_pretrained(path, **options)
