"""The parts of a job as far as they exist without weights: the model on the meta device, the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.config import Composed


READS_VALUES = (NotImplementedError, RuntimeError)  # what meta tensors raise
SMALL = 100_000_000  # parameters of a model that may be made for real
#: Initialisers that are skipped: those that draw.
RANDOM = ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
          "xavier_normal_", "trunc_normal_")  # fmt: skip


class Draft:
    """A checked job whose parts are built when asked for; nothing of it can be trained.

    Args:
        composed: what `compose` gave and `validate` accepted.
        gpu: it is meant for a GPU, whether this machine has one or not.
    """

    def __init__(self, composed: Composed, gpu: bool = False) -> None:
        self.composed, self.gpu = composed, gpu

    def _build(self, key: str) -> Any:
        from ftcli.config import build

        group, _, name = key.partition(".")
        node = self.config[group]
        return build(node[name] if name else node, key, self.composed)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The job's values; `auto` precision and type are those of this machine, bf16 of a GPU."""
        from ftcli.config.base_recipe import with_stand_in
        from ftcli.core.precision import settle

        config = with_stand_in(self.composed)
        if self.gpu and config["trainer"].get("precision", "auto") == "auto":
            config = {**config, "trainer": {**config["trainer"], "precision": "bf16"}}
        return settle(config)

    @cached_property
    def source(self) -> Any:
        """Where the model comes from."""
        return self._build("model")

    @cached_property
    def method(self) -> Any:
        """Which weights are trained."""
        return self._build("method")

    @cached_property
    def objective(self) -> Any:
        """What is minimised."""
        return self._build("objective")

    @cached_property
    def trainable(self) -> Any:
        """What of it moves at a time; None where everything does."""
        return self._build("trainable") if self.config.get("trainable") else None

    @cached_property
    def penalties(self) -> dict[str, Any]:
        """What is added to the loss, by name."""
        nodes = self.config.get("penalty") or {}
        return {name: self._build(f"penalty.{name}") for name, node in nodes.items() if node}

    @cached_property
    def optimizer(self) -> Any:
        """How a step is taken."""
        return self._build("optimizer")

    @cached_property
    def trainer(self) -> Any:
        """How the loop runs."""
        return self._build("trainer")

    @cached_property
    def scheduler(self) -> Any:
        """How the rate goes."""
        return self._build("scheduler")

    @cached_property
    def evaluators(self) -> dict[str, Any]:
        """What judges it, by name."""
        nodes = self.config.get("eval") or {}
        return {name: self._build(f"eval.{name}") for name, node in nodes.items() if node}

    @cached_property
    def data(self) -> Any:
        """What is learned from; until the model is proved, plans take packing=auto for flat."""
        data = self._build("data")
        if getattr(data, "packing", None) == "auto":
            data.settle("flat" if getattr(self.method, "packable", True) else "none")
        return data

    @property
    def remote(self) -> bool:
        """Whether the data are a hub's, which may be out of reach."""
        from ftcli.data.sources import files, hub

        return hub.is_id(self.data.path) and not files.exists(self.data.path)

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

        A small model whose method looks at its weights is made on the CPU, with weights at random.

        Raises:
            UserError: the method does not fit the model.
            NeedsWeights: the method looks at the weights of a model that is too large for that.
        """
        from ftcli.models.quantization import quiet_bitsandbytes

        quiet_bitsandbytes()
        try:
            return self._prepared(self.source.meta())
        except Exception as error:  # whatever a library raises that reads values on the meta device
            if isinstance(error, UserError) and not isinstance(error.__cause__, READS_VALUES):
                raise
            return self.on_cpu(error)

    def on_cpu(self, why: Exception) -> Any:
        """The prepared model with random weights, for methods that look at values.

        Raises:
            NeedsWeights: it is too large for that.
        """
        from ftcli.models.anatomy import count_parameters

        bare = self.source.meta()
        if count_parameters(bare) > SMALL:
            what = f"{self.composed.named('method')} looks at the weights themselves: "
            what += "what it takes is known only once they are loaded."
            raise NeedsWeights(what, self.composed.where("method")) from why
        return self._prepared(_at_random(bare))

    def _prepared(self, bare: Any) -> Any:
        bare.name_or_path = self.source.path  # what messages call it
        with _undrawn():
            model = _without_values(self.method).prepare(bare)
        if getattr(self.source, "attention", None) == "eager":
            model.config._attn_implementation = "eager"
        return model

    @property
    def autocast(self) -> Any:
        """The type of matrix products; None where they keep that of the weights."""
        import torch

        return torch.bfloat16 if self.trainer.precision == "bf16" else None

    @property
    def quantization(self) -> str:
        """How the linears of the blocks are stored."""
        return str(getattr(self.source, "quantization", "none"))


class NeedsWeights(UserError):
    """Something cannot be known before the weights are loaded."""


def _without_values(method: Any) -> Any:
    """The same method without an initialisation that is computed from weights or data.

    PiSSA, OLoRA, CorDA and the like begin elsewhere than LoRA; their shapes are LoRA's.
    """
    options = getattr(method, "options", {})
    if not isinstance(options.get("init_lora_weights"), str):
        return method
    plain = copy(method)
    plain.options = {**options, "init_lora_weights": True}
    return plain


def _at_random(bare: Any) -> Any:
    """A model of the meta device on the CPU, with small random weights."""
    import torch

    model = bare.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model


@contextmanager
def _undrawn() -> Iterator[None]:
    """Initial values are of no use here, and drawing them takes most of the time.

    Not `transformers.initialization.no_init_weights`, whose functions give nothing back: some
    methods of peft go on with what an initialiser returns.
    """
    import warnings

    from torch.nn import init

    from ftcli.planning.lean import without_quantiser

    def same(tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    drawing = {name: getattr(init, name) for name in RANDOM}
    with warnings.catch_warnings(), without_quantiser():
        warnings.simplefilter("ignore")
        try:
            for name in drawing:
                setattr(init, name, same)
            yield
        finally:
            for name, function in drawing.items():
                setattr(init, name, function)
