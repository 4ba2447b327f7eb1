"""The parts of a job as far as they exist without weights: the model on the meta device, the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftcli.errors import UserError

if TYPE_CHECKING:
    from ftcli.config import Composed


class Draft:
    """A checked job whose parts are built when asked for; nothing of it can be trained.

    Args:
        composed: what `compose` gave and `validate` accepted.
    """

    def __init__(self, composed: Composed) -> None:
        self.composed = composed

    def _build(self, group: str) -> Any:
        from ftcli.config import build

        return build(self.config[group], group, self.composed)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The job's values, precision and type as they would be on this machine."""
        from ftcli.run.precision import settle

        return settle(self.composed.config)

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
    def optimizer(self) -> Any:
        """How a step is taken."""
        return self._build("optimizer")

    @cached_property
    def trainer(self) -> Any:
        """How the loop runs."""
        return self._build("trainer")

    @cached_property
    def data(self) -> Any:
        """What is learned from."""
        return self._build("data")

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

        Raises:
            UserError: the method does not fit the model, or needs the weights themselves.
        """
        from ftcli.models.quantization import quiet_bitsandbytes

        quiet_bitsandbytes()
        bare = self.source.meta()
        bare.name_or_path = self.source.path  # what messages call it
        with _lean():
            try:
                model = self.method.prepare(bare)
            except (NotImplementedError, RuntimeError) as error:
                raise UserError(
                    f"{self.composed.named('method')} cannot be prepared without the weights: {error}",
                    where=self.composed.where("method"),
                ) from error
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


@contextmanager
def _lean() -> Iterator[None]:
    """Initial values are of no use on the meta device, and drawing them is most of the time."""
    import warnings

    from transformers.initialization import no_init_weights

    from ftcli.planning.lean import without_quantiser

    with warnings.catch_warnings(), without_quantiser(), no_init_weights():
        warnings.simplefilter("ignore")
        yield
