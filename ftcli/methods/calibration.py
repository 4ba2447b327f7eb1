"""What is measured of the base before training: batches, what enters its layers, their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftcli.core.errors import UserError

if TYPE_CHECKING:
    from ftcli.core.run import Run
    from ftcli.data.dataset import Data

Batch = dict[str, Any]
#: Real tokens [t, in] of a layer's input and the sequence [t] of each -> the same tokens, rescaled.
Rescale = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Covariance:
    """Second moments of what enters a layer.

    Attributes:
        total: sum over tokens of x x^T, float32 [in, in].
        tokens: how many were summed, padding not counted.
        sequences: how many documents they belong to.
    """

    total: Tensor
    tokens: int = 0
    sequences: int = 0

    @property
    def mean(self) -> Tensor:
        """Over tokens."""
        return self.total / max(1, self.tokens)

    @property
    def sequence_mean(self) -> Tensor:
        """Over sequences, of each one's sum over tokens."""
        return self.total / max(1, self.sequences)


def calibration_batches(
    run: Run, count: int, batch_size: int = 1, seed: int | None = None, data: Data | None = None
) -> Iterator[Batch]:
    """About `count` training rows (bins, where data.packing=bins), the same ones on every rank.

    Args:
        count: rounded up to whole batches; all rows where there are fewer.
        batch_size: at data.packing=none batches are put together by length and drawn as wholes, so
            that another size takes other rows.
        seed: of their order; null: the run's. At data.packing=none they are the first rows trained on
            only where `batch_size` is the run's own.
        data: other data than the run's.
    """
    loader = (data or run.data).loader(
        "train", run.tokenizer, batch_size, seed=run.seed if seed is None else seed
    )
    for rows in loader.batches(0)[: math.ceil(count / batch_size)]:
        yield loader.batch(rows)


@contextmanager
def as_base(model: nn.Module) -> Iterator[None]:
    """Adapters and dropout off; modes and what requires a gradient come back at the end."""
    training = model.training
    trained = {p for p in model.parameters() if p.requires_grad}
    disabled: Any = getattr(model, "disable_adapter", nullcontext)
    model.eval()
    try:
        with disabled():
            yield
    finally:
        model.train(training)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in trained)


@torch.no_grad()
def input_covariance(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    drawn: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], Any],
    rescale: Rescale | None = None,
) -> dict[str, Covariance]:
    """Covariance of the inputs of each layer, over the real tokens of padded or packed batches.

    Args:
        layers: name -> a linear layer inside `model` (under an adapter, its base layer).
        forward: runs the model on a batch; its result is not used.
        rescale: applied to a layer's real tokens before they are summed.

    Raises:
        UserError: a layer's input is not finite, or does not have the batch's tokens.
    """
    found: dict[str, Covariance] = {}
    owners = _SequenceOwners(model)

    def watch(name: str, layer: nn.Module) -> Any:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            owner = owners.owner(layer, args[0], name)
            _add(found, name, args[0].flatten(0, -2), owner, rescale)

        return layer.register_forward_pre_hook(add)

    hooks = [watch(name, layer) for name, layer in layers.items()] + owners.hooks
    try:
        with as_base(model):
            for batch in drawn:
                owners.batch = batch
                forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _add(
    found: dict[str, Covariance], name: str, x: Tensor, owner: Tensor, rescale: Rescale | None
) -> None:
    real = owner >= 0
    x, owner = x[real].float(), owner[real]
    with torch.autocast(x.device.type, enabled=False):  # a product of bfloat16 would lose its tail
        x = x if rescale is None else rescale(x, owner)
        product = x.T @ x
    if not torch.isfinite(product).all():
        raise UserError(f"the inputs of {name} are not finite.", "method", "model.dtype=float32")
    known = found.setdefault(name, Covariance(torch.zeros_like(product)))
    known.total += product
    known.tokens += len(x)
    known.sequences += len(owner.unique())


class _SequenceOwners:
    """Which sequence each token of a layer's input belongs to; -1 for padding.

    In an encoder-decoder, layers of the decoder see its tokens, but keys and values of cross
    attention see the encoder's: they are known by being handed its output itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self.batch: Batch = {}
        self.hooks: list[Any] = []
        self._decoder: set[nn.Module] = set()
        self._encoded: int | None = None
        bare: Any = model
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            self._decoder = set(bare.get_decoder().modules())
            self.hooks = [bare.get_encoder().register_forward_hook(self._note)]

    def _note(self, _: nn.Module, __: Any, output: Any) -> None:
        self._encoded = output[0].data_ptr()

    def owner(self, layer: nn.Module, x: Tensor, name: str) -> Tensor:
        """Numbers [tokens] of the sequences of an input [..., T, in]."""
        decodes = layer in self._decoder and x.data_ptr() != self._encoded
        owner = sequence_numbers(self.batch, decodes)
        width = x.shape[-2] if x.dim() > 1 else 0
        if "lengths" in self.batch:  # a packed row is filled up behind its last document
            owner = nn.functional.pad(owner, (0, max(0, width - owner.shape[1])), value=-1)
        if owner.numel() != x.shape[:-1].numel():
            raise UserError(
                f"{name} sees {x.shape[:-1].numel()} tokens where the batch has {owner.numel()}.",
                where="method.target_modules",
                fix="leave out layers that are not run on every token",
            )
        return owner.flatten().to(x.device)


def sequence_numbers(batch: Batch, decoder: bool = False) -> Tensor:
    """The number of each token's sequence within the batch, int64 [B, T]; -1 for padding.

    Args:
        decoder: of the labels of an encoder-decoder in place of its inputs.
    """
    if "lengths" in batch:
        return torch.repeat_interleave(batch["lengths"].long())[None]
    real = batch["labels"] != -100 if decoder else batch["attention_mask"].bool()
    return torch.where(real, torch.arange(len(real), device=real.device)[:, None], -1)


def sum_gradients(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    drawn: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
) -> dict[str, Tensor]:
    """Sum over batches of the gradient of the base's loss for each weight; float32 on the CPU.

    On the model's device only one weight's gradient exists at a time: as soon as it is whole it is
    moved away and freed. A weight that no batch reaches is absent.

    Args:
        weights: name -> a weight of `model`, frozen or not.
        loss: scalar of a batch.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str, weight: nn.Parameter) -> Any:
        def move(parameter: Tensor) -> None:
            assert parameter.grad is not None
            arrived, parameter.grad = parameter.grad.to("cpu", torch.float32), None
            found[name] = found[name].add_(arrived) if name in found else arrived

        return weight.register_post_accumulate_grad_hook(move)

    with as_base(model), torch.enable_grad():
        wanted = set(weights.values())
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in wanted)
        hooks = [watch(name, weight) for name, weight in weights.items()]
        try:
            for batch in drawn:
                loss(model, batch).backward()
        finally:
            for hook in hooks:
                hook.remove()
    return found


def objective_loss(run: Run, drawn: Sequence[Batch]) -> Callable[[nn.Module, Batch], Tensor]:
    """What each batch adds to the training loss over all of them, in the run's precision.

    Summed over the batches it is the loss of one step on their rows, however they are cut.
    """
    denominator = run.objective.denominator(drawn)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with run.autocast():
            return run.objective.numerator(run.objective(model, batch)) / denominator

    return loss
