"""A causal language model of transformers: where it comes from, how its weights are stored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ftcli.core.errors import UserError
from ftcli.models import hub
from ftcli.models.gguf_source import GgufSource
from ftcli.models.pretrained import compare_files, load_pretrained
from ftcli.models.quantization import (
    Quantization,
    build_bitsandbytes_config,
    check_prequantized,
    disable_cpu_inference_path,
    quiet_bitsandbytes,
)
from ftcli.models.state_dict_check import UnexpectedKeysPolicy
from ftcli.models.tokenizer import check_vocabulary, complete_tokenizer
from ftcli.models.weight_files import WeightFiles, find_weight_files

if TYPE_CHECKING:
    from ftcli.core.batch_layout import BatchLayout

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2"]


@dataclass
class CausalLMSource:
    """Loads any causal language model of transformers, its tokenizer and its configuration."""

    path: str  # hub id, folder, FILE.gguf, asset:NAME for one that ships, package:NAME
    gguf_file: str | None = None  # name of a GGUF file in the folder, package or hub repository
    architecture: str | None = None  # shipped config used if neither hub nor file is available
    dtype: Dtype | Literal["auto"] = "float32"  # of plain weights; auto: the precision's
    quantization: Quantization = "none"  # of the linears of the blocks
    double_quant: bool = True  # nf4, fp4: the scales of the blocks are quantised too
    compute_dtype: Dtype | None = None  # nf4, fp4: of the matrix products; null: dtype
    attention: Attention = "auto"  # auto: restarts at each document of a packed row
    rope_scaling: dict | None = None  # e.g. {rope_type: linear, factor: 2}
    revision: str | None = None  # branch, tag or commit on the hub
    tokenizer: str | None = None  # hub id or folder; null: path
    chat_template: str | None = None  # a Jinja template or a file that holds one; null: its own
    weights: Literal["pretrained", "random"] = "pretrained"  # random: new ones, for pretraining
    extra_weights: UnexpectedKeysPolicy = (
        "refuse"  # tensors in the files that the model has no parameter for
    )

    def __post_init__(self) -> None:
        self._measured_attention: Literal["documents", "library"] = "documents"

    def load(self, device: str | None = None) -> PreTrainedModel:
        """Load the model with its weights, in eval mode.

        Args:
            device: where to put it; None: the accelerator of this process, else the CPU.

        Raises:
            UserError: the model is missing, gated, unreadable, its files do not hold exactly its
                parameters, or rope_scaling does not fit it.
        """
        quiet_bitsandbytes()
        path, config = self._ensure_weights_folder(), self.hf_config()
        dtype = self._dtype(config)
        if self.weights == "random":
            return self._build_new(config, dtype)
        place, files = device or local_device(), find_weight_files(path, self.revision)
        check_prequantized(config, self.quantization, self.name, place, files)
        compute = getattr(torch, self.compute_dtype) if self.compute_dtype else dtype

        def load(local: bool, key_mapping: dict[str, str]) -> tuple[Any, dict[str, Any]]:
            loader: Any = AutoModelForCausalLM
            return loader.from_pretrained(
                path,
                config=config,
                revision=self.revision or "main",
                dtype=dtype,
                quantization_config=build_bitsandbytes_config(
                    self.quantization, self.double_quant, compute
                ),
                attn_implementation=self._named_attention,
                device_map={"": place},
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=local,
                # it also asks the hub for an adapter, despite local_files_only
                adapter_kwargs={"local_files_only": local},
                key_mapping=key_mapping,
                ignore_mismatched_sizes=True,  # refused below, with their names
                output_loading_info=True,
            )

        model, misfit, shapes = load_pretrained(path, self.revision, self.build_meta_model, load)
        if files is None:  # they were downloaded just now
            files = find_weight_files(path, self.revision)
            check_prequantized(config, self.quantization, self.name, place, files)
        misfit.refuse(self.name, model, shapes, self.extra_weights)
        disable_cpu_inference_path(model)
        if not self.gguf:  # other programs load a converted one by its folder
            hub.set_model_name(model, self.path)
        return self._with_attention(model).eval()

    def select_batch_layout(
        self, model: PreTrainedModel, packing: str, longest: int, objective: Any
    ) -> BatchLayout:
        """Select the batch layout of this loaded model (`ftcli.models.batch_layout_check`); later loads use its attention.

        Raises:
            UserError: no batch layout reproduces the losses of single rows, or the packing that was asked for does not.
        """
        from ftcli.models.batch_layout_check import select_batch_layout

        outcome = select_batch_layout(model, packing, longest, objective, self.name)
        self.use_attention(outcome.attention)
        return outcome

    def use_attention(self, attention: Literal["documents", "library"]) -> None:
        """Set the attention of later loads, as selected with the batch layout."""
        self._measured_attention = attention

    def check_files(self) -> str:
        """Check by the headers of its files that the model can be loaded; return a note, or "".

        Raises:
            UserError: tensors are missing, or do not fit.
        """
        if self.gguf and not self.gguf.find_converted():
            return self.gguf.describe()
        path, config = self._ensure_weights_folder(), self.hf_config()
        files = find_weight_files(path, self.revision)
        stored = check_prequantized(config, self.quantization, self.name, local_device(), files)
        if stored:
            count = len(files.shapes()) if files else 0
            return f"{count} tensors, stored quantised ({stored})" if count else ""
        comparison = compare_files(path, self.revision, self.build_meta_model)
        if comparison is None:
            return ""
        model, misfit, shapes, note = comparison
        misfit.refuse(self.name, model, shapes, self.extra_weights)
        return note

    def weight_files(self) -> list[WeightFiles]:
        """Return the files that are loaded, as far as they are on this machine."""
        if self.weights == "random":
            return []
        if self.gguf and not self.gguf.find_converted():
            return []
        files = find_weight_files(self._ensure_weights_folder(), self.revision)
        return [files] if files else []

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer with a padding token and the chat template of the configuration.

        Raises:
            UserError: it is missing, or has tokens that the model has no embedding for.
        """
        gguf = None if self.tokenizer else self.gguf
        tokenizer = gguf.load_tokenizer() if gguf else self._load_plain_tokenizer()
        check_vocabulary(tokenizer, self.hf_config(), self.name)
        return complete_tokenizer(tokenizer, self.chat_template)

    def hf_config(self) -> PreTrainedConfig:
        """Load the model's configuration, or that of `architecture` where hub and cache do not have it."""
        if self.gguf:
            return self._scale_rope(self.gguf.load_config(self.architecture))
        path = hub.resolve(self.path)
        return self._scale_rope(hub.load_config(path, self.revision, self.architecture))

    def build_meta_model(self) -> PreTrainedModel:
        """Build the model on the meta device: every shape, no memory, never quantised."""
        config = self.hf_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=self._dtype(config), trust_remote_code=False
            )
        model.to_be_quantised = self.quantization != "none"  # a method may ask for plain weights
        return model

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return self.gguf.name if self.gguf else Path(self.path.removeprefix("asset:")).name

    @property
    def gguf(self) -> GgufSource | None:
        """The GGUF file that the weights come from; None for other models."""
        return GgufSource.from_model(self.path, self.gguf_file, self.revision)

    def _ensure_weights_folder(self) -> str:
        """Return the folder or hub id of the weights; a GGUF file is downloaded and converted first."""
        return str(self.gguf.convert()) if self.gguf else hub.resolve(self.path)

    def _load_plain_tokenizer(self) -> PreTrainedTokenizerBase:
        key = "model.tokenizer" if self.tokenizer else "model.path"
        path = hub.resolve(self.tokenizer or self.path, key)
        revision = None if self.tokenizer else self.revision
        return hub.load_cached_first(
            path,
            revision,
            lambda local: AutoTokenizer.from_pretrained(
                path,
                revision=revision or "main",
                trust_remote_code=False,
                local_files_only=local,
            ),
        )

    def _scale_rope(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Merge `rope_scaling` into the configuration's rotary parameters."""
        if self.rope_scaling is None:
            return config
        text: Any = config.get_text_config()
        rope = getattr(text, "rope_parameters", None)
        if not rope:
            raise UserError(
                f"{self.name} has no rotary position embedding to scale.",
                where="model.rope_scaling",
                fix="model.rope_scaling=null",
            )
        _refuse_unknown_rope(self.rope_scaling)
        nested = all(isinstance(value, dict) for value in rope.values())
        changed = self.rope_scaling
        text.rope_parameters = (
            {layer: {**values, **changed} for layer, values in rope.items()}
            if nested
            else {**rope, **changed}
        )
        try:
            text.standardize_rope_params()
            text.validate_rope()
        except (KeyError, ValueError) as error:
            raise UserError(f"{error}", where="model.rope_scaling") from error
        return config

    def _dtype(self, config: PreTrainedConfig) -> torch.dtype:
        """Return the type of the weights; a run resolves `auto` earlier, elsewhere it is that of the files."""
        if self.dtype == "auto":
            return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        return getattr(torch, self.dtype)

    def _build_new(self, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        """Build the model with weights drawn from torch's generator."""
        if self.quantization != "none":
            raise UserError(
                "new weights cannot be quantised: they are random, and quantised weights are not trained.",
                where="model.weights",
                fix="model.quantization=none",
            )
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=self._named_attention, trust_remote_code=False
        )
        return self._with_attention(model).eval()

    @property
    def _named_attention(self) -> str | None:
        return None if self.attention == "auto" else self.attention

    def _with_attention(self, model: PreTrainedModel) -> PreTrainedModel:
        """Give the model the attention of packed rows, unless another was chosen or measured."""
        from ftcli.models import attention

        if self.attention == "auto":
            attention.install_document_attention(model)
            attention.set_attention(model, self._measured_attention)
        return model


def _refuse_unknown_rope(scaling: dict[str, Any]) -> None:
    """Refuse a rope_type that transformers does not know: it only warns, and fails later."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = scaling.get("rope_type")
    if kind not in ROPE_INIT_FUNCTIONS:
        raise UserError(
            f"rope_type={kind} is no kind of rotary scaling.",
            where="model.rope_scaling",
            fix=f"one of {', '.join(sorted(ROPE_INIT_FUNCTIONS))}",
        )


def local_device() -> str:
    """Return the accelerator of this process (LOCAL_RANK of a launcher), else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
