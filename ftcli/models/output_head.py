"""Logits as the model's own forward makes them, for hidden states that it has not been given.

Behind the output layer models scale, cap or mask logits, each in the code of its forward and under
keys of its own. What happens there is recorded while it happens to the output layer's result, and
done again with the result for any other hidden states.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ftcli.core.errors import UserError

Head = Callable[[Tensor], Tensor]


class _Place:
    """Stands in a recorded call for a tensor that comes from the output layer."""

    def __init__(self, index: int) -> None:
        self.index = index


class Recording(TorchFunctionMode):
    """While entered, notes each torch function that takes what comes from the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []  # held, so that an address is not used twice
        self.places: dict[int, int] = {}
        self.calls: list[tuple[Callable[..., Any], Any, Any]] = []

    def begin(self, logits: Tensor) -> None:
        """Everything that is done with these from now on is noted."""
        self.tensors, self.places, self.calls = [logits], {id(logits): 0}, []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, and note it where it takes or gives such a tensor."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        if any(id(leaf) in self.places for leaf in leaves):
            kept = [_Place(self.places[id(x)]) if id(x) in self.places else x for x in leaves]
            outputs = tree_map(self._placed, result)
            self.calls.append((func, tree_unflatten(kept, structure), outputs))
        return result

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self.places:
            self.places[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return _Place(self.places[id(value)])

    def tail(self, logits: Tensor) -> list[tuple[Callable[..., Any], Any, Any]]:
        """The calls that lie between the output layer and the model's logits; none where they are one.

        Raises:
            UserError: the logits do not come from the output layer.
        """
        if id(logits) not in self.places:
            raise UserError(
                "this model's logits do not come from its output layer in a way that can be followed.",
                where="model",
            )
        if self.places[id(logits)] == 0 and not any(_in_place(call) for call in self.calls):
            return []
        return self.calls


def _in_place(call: tuple[Callable[..., Any], Any, Any]) -> bool:
    """Whether a call writes into its first argument."""
    name = getattr(call[0], "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


class OutputHead:
    """Hidden states [.., d] -> logits [.., V], as in the forward pass that `watch` saw.

    Args:
        layer: the output layer, adapters included.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.calls: list[tuple[Callable[..., Any], Any, Any]] = []
        self.last = 0

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits of any hidden states, gradients included."""
        if not self.calls:
            return torch.as_tensor(self.layer(hidden))
        rows = self.layer(hidden.reshape(1, -1, hidden.shape[-1]))
        logits = self._replayed(rows)
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])

    def follow(self, recording: Recording, logits: Tensor) -> None:
        """Take what was recorded between the output layer and these logits."""
        self.calls = recording.tail(logits)
        self.last = recording.places[id(logits)]

    def _replayed(self, rows: Tensor) -> Tensor:
        values: dict[int, Tensor] = {0: rows}

        def real(leaf: Any) -> Any:
            return values[leaf.index] if isinstance(leaf, _Place) else leaf

        for func, (args, kwargs), outputs in self.calls:
            result = func(*tree_map(real, args), **tree_map(real, kwargs))
            for place, value in zip(tree_flatten(outputs)[0], tree_flatten(result)[0], strict=True):
                if isinstance(place, _Place):
                    values[place.index] = value
        return values[self.last]


def compute_states_and_head(model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, OutputHead]:
    """One forward pass up to the output layer: its input [B, T, d], and the layer with what follows it.

    A hook takes the output layer's input and hands an empty one on, so that this works for every
    model and wrapper without knowing its parts.

    Raises:
        UserError: the model has no output layer, or its forward pass does not go through it.
    """
    bare: Any = getattr(model, "module", model)  # without the wrapper of data parallelism
    layer = bare.get_output_embeddings()
    if layer is None:
        raise UserError("this model has no output layer that gives logits.", where="model")
    caught: list[Tensor] = []
    recording, head = Recording(), OutputHead(layer)
    noting = ExitStack()

    def take(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(args[0])
        return (args[0][:, :0], *args[1:])

    def watch(_: nn.Module, __: Any, logits: Tensor) -> None:
        recording.begin(logits)
        if len(caught) == 1:
            noting.enter_context(recording)

    hooks = [layer.register_forward_pre_hook(take), layer.register_forward_hook(watch)]
    try:
        output = model(**inputs, use_cache=False)
    finally:
        noting.close()
        for hook in hooks:
            hook.remove()
    if not caught:
        raise UserError("this model's forward does not pass its output layer.", where="model")
    head.follow(recording, getattr(output, "logits", output))
    return caught[0], head
