"""A job without weights: its parts, the model on the meta device, the data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.config import ComposedJob


READS_VALUES = (NotImplementedError, RuntimeError)  # what meta tensors raise when they are read
SMALL = 100_000_000  # parameters up to which a model is built on the CPU, with random weights
QUANTISER = "bitsandbytes"
#: Initialisers that are skipped: those that draw.
RANDOM = ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
          "xavier_normal_", "trunc_normal_")  # fmt: skip


class MetaRun:
    """A checked job whose parts are built when asked for; nothing of it can be trained.

    Args:
        composed: what `compose` returned and `validate_and_convert` accepted.
        gpu: plan for a GPU, whether this machine has one or not.
    """

    def __init__(self, composed: ComposedJob, gpu: bool = False) -> None:
        self.composed, self.gpu = composed, gpu

    def _build(self, key: str) -> Any:
        from ftcli.config import build

        group, _, name = key.partition(".")
        node = self.config[group]
        return build(node[name] if name else node, key, self.composed)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The job's values, with `auto` precision and type resolved for this machine or a GPU (bf16)."""
        from ftcli.config.composition import substitute_base
        from ftcli.core.precision import resolve_precision

        config = substitute_base(self.composed)
        if self.gpu and config["trainer"].get("precision", "auto") == "auto":
            config = {**config, "trainer": {**config["trainer"], "precision": "bf16"}}
        return resolve_precision(config)

    @cached_property
    def source(self) -> Any:
        """The model source (`model`)."""
        return self._build("model")

    @cached_property
    def method(self) -> Any:
        """The method: which weights are trained."""
        return self._build("method")

    @cached_property
    def objective(self) -> Any:
        """The objective."""
        return self._build("objective")

    @cached_property
    def trainable(self) -> Any:
        """The policy that chooses what is trained at a step; None where all is."""
        return self._build("trainable") if self.config.get("trainable") else None

    @cached_property
    def penalties(self) -> dict[str, Any]:
        """The penalties added to the loss, by name."""
        nodes = self.config.get("penalty") or {}
        return {name: self._build(f"penalty.{name}") for name, node in nodes.items() if node}

    @cached_property
    def callbacks(self) -> dict[str, Any]:
        """The callbacks of the group `callback`, by name."""
        nodes = self.config.get("callback") or {}
        return {name: self._build(f"callback.{name}") for name, node in nodes.items() if node}

    @cached_property
    def optimizer(self) -> Any:
        """The optimizer."""
        return self._build("optimizer")

    @cached_property
    def trainer(self) -> Any:
        """The trainer."""
        return self._build("trainer")

    @cached_property
    def scheduler(self) -> Any:
        """The schedule of the learning rate."""
        return self._build("scheduler")

    @cached_property
    def evaluators(self) -> dict[str, Any]:
        """The evaluators, by name, those of named sets included."""
        from ftcli.evaluation.named_sets import add_named_sets

        nodes = self.config.get("eval") or {}
        built = {name: self._build(f"eval.{name}") for name, node in nodes.items() if node}
        return add_named_sets(built, self.data)

    @cached_property
    def data(self) -> Any:
        """The data; `packing=auto` is planned as flat until the batch layout is measured."""
        data = self._build("data")
        if getattr(data, "packing", None) == "auto":
            data.use_batch_layout("flat" if getattr(self.method, "packable", True) else "none")
        return data

    @property
    def remote(self) -> bool:
        """Whether some of the data are on a hub, which may not be reachable."""
        from ftcli.data.sources import files, hub

        paths = [source.path for source in getattr(self.data, "source_settings", [self.data])]
        return any(hub.is_id(path) and not files.exists_locally(path) for path in paths)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            UserError: it is not on this machine and cannot be fetched.
        """
        return self.source.load_tokenizer()

    @cached_property
    def model(self) -> Any:
        """The model on the meta device as the method prepares it.

        A small model whose method reads its weights is built on the CPU, with random weights.

        Raises:
            UserError: the method does not fit the model.
            NeedsWeights: the method reads the weights of a model that is too large for that.
        """
        from ftcli.models.quantization import quiet_bitsandbytes

        quiet_bitsandbytes()
        try:
            return self._prepare(self.source.build_meta_model())
        except Exception as error:  # any error of a library that reads values on the meta device
            if isinstance(error, UserError) and not isinstance(error.__cause__, READS_VALUES):
                raise
            return self.prepare_on_cpu(error)

    def prepare_on_cpu(self, cause: Exception) -> Any:
        """Return the prepared model with random weights on the CPU, for methods that read values.

        Raises:
            NeedsWeights: it is too large for that.
        """
        from ftcli.models.anatomy import count_parameters

        bare = self.source.build_meta_model()
        if count_parameters(bare) > SMALL:
            what = f"{self.composed.format_choice('method')} reads the weights themselves: "
            what += "what it needs is known only once they are loaded."
            raise NeedsWeights(what, self.composed.where("method")) from cause
        return self._prepare(_randomize(bare))

    def _prepare(self, bare: Any) -> Any:
        bare.name_or_path = self.source.path  # the name in messages
        with _skip_init():
            model = _without_data_init(self.method).prepare(bare)
        if getattr(self.source, "attention", None) == "eager":
            model.config._attn_implementation = "eager"
        return model

    @property
    def autocast(self) -> Any:
        """The type of matrix products under autocast; None without autocast."""
        import torch

        return torch.bfloat16 if self.trainer.precision == "bf16" else None

    @property
    def quantization(self) -> str:
        """The type that the linears of the blocks are stored in: none, nf4, fp4 or int8."""
        return str(getattr(self.source, "quantization", "none"))


class NeedsWeights(UserError):
    """A figure cannot be known before the weights are loaded."""


def _without_data_init(method: Any) -> Any:
    """Return the method without an initialisation that is computed from weights or data.

    PiSSA, OLoRA, CorDA and the like start from other values than LoRA; their shapes are those of LoRA.
    """
    options = getattr(method, "options", {})
    if not isinstance(options.get("init_lora_weights"), str):
        return method
    plain = copy(method)
    plain.options = {**options, "init_lora_weights": True}
    return plain


def _randomize(bare: Any) -> Any:
    """Move a model from the meta device to the CPU, with small random weights."""
    import torch

    model = bare.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model


@contextmanager
def _skip_init() -> Iterator[None]:
    """Skip random initialisation inside the block: drawing values takes most of the time.

    Not `transformers.initialization.no_init_weights`, whose functions return nothing: some methods
    of peft use what an initialiser returns.
    """
    import warnings

    from torch.nn import init

    def keep(tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    drawing = {name: getattr(init, name) for name in RANDOM}
    with warnings.catch_warnings(), _hide_quantiser():
        warnings.simplefilter("ignore")
        try:
            for name in drawing:
                setattr(init, name, keep)
            yield
        finally:
            for name, function in drawing.items():
                setattr(init, name, function)


@contextmanager
def _hide_quantiser() -> Iterator[None]:
    """Hide bitsandbytes from peft inside the block: its import takes a second (it loads inductor).

    On the meta device nothing is quantised, so peft's answer is the same. What peft has cached about
    the package is cleared afterwards. Nothing is done where the package is imported already.
    """
    if QUANTISER in sys.modules:
        yield
        return
    from transformers.utils import is_bitsandbytes_available

    is_bitsandbytes_available()  # transformers caches its answer for good, so it is asked first
    sys.modules[QUANTISER] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[QUANTISER]
        checks = sys.modules.get("peft.import_utils")
        for name in ("is_bnb_available", "is_bnb_4bit_available"):
            clear = getattr(getattr(checks, name, None), "cache_clear", None)
            if clear is not None:
                clear()
