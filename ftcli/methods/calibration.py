"""Measurements on the base before training: calibration batches, input covariances, gradients."""

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
#: (tokens [t, in] of a layer's input without padding, sequence of each [t]) -> rescaled tokens [t, in].
Rescale = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Covariance:
    """Second moments of a layer's inputs.

    Attributes:
        total: sum over tokens of x x^T, float32 [in, in].
        tokens: number of summed tokens, without padding.
        sequences: number of documents that they belong to.
    """

    total: Tensor
    tokens: int = 0
    sequences: int = 0

    @property
    def mean(self) -> Tensor:
        """Mean over tokens, [in, in]."""
        return self.total / max(1, self.tokens)

    @property
    def sequence_mean(self) -> Tensor:
        """Mean over sequences of each sequence's sum over tokens, [in, in]."""
        return self.total / max(1, self.sequences)


def calibration_batches(
    run: Run, count: int, batch_size: int = 1, seed: int | None = None, data: Data | None = None
) -> Iterator[Batch]:
    """Yield batches of about `count` training rows (bins, where data.packing=bins), equal on every rank.

    Args:
        count: number of rows, rounded up to whole batches; all rows where there are fewer.
        batch_size: rows a batch. At data.packing=none rows are batched by length and whole batches are
            shuffled, so that another size takes other rows.
        seed: seed of the order; None: the run's. With the run's seed they are the first rows that the
            run trains on, at data.packing=none only where `batch_size` is the run's as well.
        data: data to use instead of the run's.
    """
    loader = (data or run.data).loader(
        "train", run.tokenizer, batch_size, seed=run.seed if seed is None else seed
    )
    for rows in loader.list_batch_indices(0)[: math.ceil(count / batch_size)]:
        yield loader.batch(rows)


@contextmanager
def switch_to_base(model: nn.Module) -> Iterator[None]:
    """Disable adapters and dropout inside; restore modes and requires_grad afterwards."""
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
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], Any],
    rescale: Rescale | None = None,
) -> dict[str, Covariance]:
    """Return name -> covariance of a layer's inputs, over the tokens of the batches without padding.

    Args:
        layers: name -> a linear layer inside `model` (under an adapter, its base layer).
        batches: padded or packed batches.
        forward: runs the model on a batch; its result is not used.
        rescale: applied to a layer's tokens before they are summed; None: nothing.

    Raises:
        UserError: a layer's input is not finite, or has another number of tokens than the batch.
    """
    covariances: dict[str, Covariance] = {}
    owners = _SequenceOwners(model)

    def add_hook(name: str, layer: nn.Module) -> Any:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            owner = owners.owner(layer, args[0], name)
            _add(covariances, name, args[0].flatten(0, -2), owner, rescale)

        return layer.register_forward_pre_hook(add)

    hooks = [add_hook(name, layer) for name, layer in layers.items()] + owners.hooks
    try:
        with switch_to_base(model):
            for batch in batches:
                owners.batch = batch
                forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return covariances


def _add(
    covariances: dict[str, Covariance], name: str, x: Tensor, owner: Tensor, rescale: Rescale | None
) -> None:
    is_token = owner >= 0
    x, owner = x[is_token].float(), owner[is_token]
    with torch.autocast(x.device.type, enabled=False):  # a bfloat16 product would lose precision
        x = x if rescale is None else rescale(x, owner)
        product = x.T @ x
    if not torch.isfinite(product).all():
        raise UserError(f"the inputs of {name} are not finite.", "method", "model.dtype=float32")
    covariance = covariances.setdefault(name, Covariance(torch.zeros_like(product)))
    covariance.total += product
    covariance.tokens += len(x)
    covariance.sequences += len(owner.unique())


class _SequenceOwners:
    """Finds the sequence that each token of a layer's input belongs to; -1 for padding.

    In an encoder-decoder, layers of the decoder see the decoder's tokens, but keys and values of cross
    attention see the encoder's; they are recognised by their input, which is the encoder's output itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self.batch: Batch = {}
        self.hooks: list[Any] = []
        self._decoder: set[nn.Module] = set()
        self._encoded: int | None = None
        bare: Any = model
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            self._decoder = set(bare.get_decoder().modules())
            self.hooks = [bare.get_encoder().register_forward_hook(self._store_encoded)]

    def _store_encoded(self, _: nn.Module, __: Any, output: Any) -> None:
        self._encoded = output[0].data_ptr()

    def owner(self, layer: nn.Module, x: Tensor, name: str) -> Tensor:
        """Return the sequence numbers [tokens] of an input [..., T, in].

        Raises:
            UserError: the input has another number of tokens than the batch.
        """
        decodes = layer in self._decoder and x.data_ptr() != self._encoded
        owner = sequence_numbers(self.batch, decodes)
        width = x.shape[-2] if x.dim() > 1 else 0
        if "lengths" in self.batch:  # a packed row has padding after its last document
            owner = nn.functional.pad(owner, (0, max(0, width - owner.shape[1])), value=-1)
        if owner.numel() != x.shape[:-1].numel():
            raise UserError(
                f"{name} gets {x.shape[:-1].numel()} tokens where the batch has {owner.numel()}.",
                where="method.target_modules",
                fix="leave out layers that do not run on every token",
            )
        return owner.flatten().to(x.device)


def sequence_numbers(batch: Batch, decoder: bool = False) -> Tensor:
    """Return the number of each token's sequence within the batch, int64 [B, T]; -1 for padding.

    Args:
        decoder: number the labels of an encoder-decoder instead of its inputs.
    """
    if "lengths" in batch:
        return torch.repeat_interleave(batch["lengths"].long())[None]
    real = batch["labels"] != -100 if decoder else batch["attention_mask"].bool()
    return torch.where(real, torch.arange(len(real), device=real.device)[:, None], -1)


def sum_gradients(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
) -> dict[str, Tensor]:
    """Return name -> gradient of the base's loss, summed over batches; float32 on the CPU.

    Each weight's gradient is moved to the CPU and freed as soon as it is accumulated, so that one exists
    at a time on the model's device. A weight that no batch reaches is absent.

    Args:
        weights: name -> a weight of `model`, frozen or not.
        loss: scalar loss of a batch.
    """
    gradients: dict[str, Tensor] = {}

    def add_hook(name: str, weight: nn.Parameter) -> Any:
        def move(parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient, parameter.grad = parameter.grad.to("cpu", torch.float32), None
            gradients[name] = gradients[name].add_(gradient) if name in gradients else gradient

        return weight.register_post_accumulate_grad_hook(move)

    with switch_to_base(model), torch.enable_grad():
        wanted = set(weights.values())
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in wanted)
        hooks = [add_hook(name, weight) for name, weight in weights.items()]
        try:
            for batch in batches:
                loss(model, batch).backward()
        finally:
            for hook in hooks:
                hook.remove()
    return gradients


def objective_loss(run: Run, batches: Sequence[Batch]) -> Callable[[nn.Module, Batch], Tensor]:
    """Return a function that gives a batch's share of the training loss over all batches.

    The sum over these batches is the loss of one step on their rows, however the rows are divided into
    batches. Forward passes run in the run's precision.
    """
    denominator = run.objective.denominator(batches)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with run.autocast():
            return run.objective.numerator(run.objective(model, batch)) / denominator

    return loss
