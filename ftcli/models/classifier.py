"""A transformers model that classifies images, sounds or texts."""

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
from ftcli.models.quantization import check_prequantized
from ftcli.models.state_dict_check import UnexpectedKeysPolicy
from ftcli.models.weight_files import WeightFiles, find_weight_files

Task = Literal["image", "audio", "text"]
LOADERS: dict[str, Any] = {
    "image": AutoModelForImageClassification,
    "audio": AutoModelForAudioClassification,
    "text": AutoModelForSequenceClassification,
}


@dataclass
class ClassifierSource:
    """Loads any model of AutoModelForImage-, Audio- or SequenceClassification.

    A head for other classes than the checkpoint's is new: it is drawn from torch's generator, and
    every method trains it besides its own parameters.
    """

    path: str  # hub id, folder, or asset:NAME for one that ships
    task: Task = "image"  # what goes in
    labels: int | list[str] | None = None  # how many classes, or their names; null: the model's own
    head: Literal["auto", "reset", "keep"] = "auto"  # auto: new where the classes are other ones
    pool: Literal["model", "mean"] = "model"  # mean: the head sees the mean of all output tokens
    architecture: str | None = None  # shipped config used if neither hub nor file is available
    dtype: Dtype | Literal["auto"] = "float32"  # of the weights; auto: the precision's
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"  # way it is computed
    revision: str | None = None  # branch, tag or commit on the hub
    processor: str | None = None  # where preprocessing is described; null: path
    weights: Literal["pretrained", "random"] = "pretrained"  # random: new ones, for pretraining
    extra_weights: UnexpectedKeysPolicy = (
        "refuse"  # tensors in the files that the model has no parameter for
    )
    config: dict[str, Any] = field(default_factory=dict)  # values laid over the model's own config

    def load(self, device: str | None = None) -> PreTrainedModel:
        """Load the model with its weights, in eval mode.

        Args:
            device: where to put it; None: the accelerator of this process, else the CPU.

        Raises:
            UserError: the model is missing or unreadable, its files do not hold exactly the
                parameters below the head, or it has no head that could be kept.
        """
        path, config = hub.resolve(self.path), self.hf_config()
        if self.weights == "random":
            return self._complete(self._from_config(config).eval(), config, True)

        place, files = device or local_device(), find_weight_files(path, self.revision)
        check_prequantized(config, "none", self.name, place, files)

        def load(local: bool, key_mapping: dict[str, str]) -> Any:
            return LOADERS[self.task].from_pretrained(
                path,
                config=config,
                revision=self.revision or "main",
                dtype=self._dtype(config),
                attn_implementation=self.attention,
                device_map={"": place},
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=local,
                # it also asks the hub for an adapter, despite local_files_only
                adapter_kwargs={"local_files_only": local},
                key_mapping=key_mapping,
                ignore_mismatched_sizes=True,  # of a head for other classes; others are refused
                output_loading_info=True,
            )

        model, misfit, shapes = load_pretrained(path, self.revision, self._build_meta, load)
        if files is None:  # they were downloaded just now
            files = find_weight_files(path, self.revision)
            check_prequantized(config, "none", self.name, place, files)
        drop_head_misfits(misfit, model).refuse(self.name, model, shapes, self.extra_weights)
        hub.set_model_name(model, self.path)
        unread = [*misfit.missing, *misfit.mismatched]
        new = self._is_new(config, bool(unread))
        return self._complete(model.eval(), config, new, sorted(unread))

    def check_files(self) -> str:
        """Check by the headers of its files that the model can be loaded; return a note, or "".

        Raises:
            UserError: tensors below the head are missing, or do not fit.
        """
        path, config = hub.resolve(self.path), self.hf_config()
        files = find_weight_files(path, self.revision)
        stored = check_prequantized(config, "none", self.name, local_device(), files)
        comparison = None if stored else compare_files(path, self.revision, self._build_meta)
        if comparison is None:
            return f"stored quantised ({stored})" if stored else ""
        model, misfit, shapes, note = comparison
        drop_head_misfits(misfit, model).refuse(self.name, model, shapes, self.extra_weights)
        return note

    def weight_files(self) -> list[WeightFiles]:
        """Return the files that are loaded, as far as they are on this machine."""
        if self.weights == "random":
            return []
        files = find_weight_files(hub.resolve(self.path), self.revision)
        return [files] if files else []

    def build_meta_model(self) -> PreTrainedModel:
        """Build the model on the meta device: every shape, no memory."""
        config, model = self.hf_config(), self._build_meta()
        new = self.weights == "random" or self._is_new(config, not self._has_head())
        return self._complete(model, config, new)

    def load_tokenizer(self) -> Any:
        """Load the image processor or feature extractor, or the tokenizer of a text model.

        Raises:
            UserError: its configuration is missing.
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
        """Load the model's configuration and merge `labels` and `config` into it.

        Raises:
            UserError: it has no key of `config`.
        """
        config = self._load_config()
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
        """Return zero inputs of `rows` examples in the shapes that the model is built for.

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
        """The model's name in messages."""
        return Path(self.path.removeprefix("asset:")).name

    def _load_config(self) -> PreTrainedConfig:
        return hub.load_config(hub.resolve(self.path), self.revision, self.architecture)

    def _has_head(self) -> bool:
        """Whether the checkpoint has a head for as many classes, by the architecture in its config."""
        stored, wanted = self._load_config(), self.hf_config()
        kinds = stored.architectures or []
        return any("Classification" in kind for kind in kinds) and (
            stored.num_labels == wanted.num_labels
        )

    def _is_new(self, config: PreTrainedConfig, unread: bool) -> bool:
        if self.head == "keep" and unread:
            raise UserError(
                f"{self.name} has no head for {config.num_labels} classes that could be kept.",
                where="model.head",
                fix="model.head=auto, or model.labels=null for its own classes",
            )
        return self.head == "reset" or unread

    def _complete(
        self,
        model: PreTrainedModel,
        config: PreTrainedConfig,
        new: bool,
        unread: list[str] = [],  # noqa: B006
    ) -> PreTrainedModel:
        """Declare and draw a new head, and pool as the configuration says; return the model.

        Args:
            new: whether the head is new.
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

    def _build_meta(self) -> PreTrainedModel:
        """Build the model on the meta device, with the head of its class."""
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
        """Return the type of the weights; a run resolves `auto` earlier, elsewhere it is that of the files."""
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
