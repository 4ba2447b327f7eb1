"""Logits of any hidden states, computed as by the model's own forward.

After the output layer models scale, cap or mask logits, each in the code of its forward and under its
own configuration keys. These operations are recorded in one forward pass and repeated on the output
layer's result for other hidden states.
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


class _Placeholder:
    """Takes the place of a recorded tensor in the arguments and results of a recorded call."""

    def __init__(self, index: int) -> None:
        self.index = index


class Recording(TorchFunctionMode):
    """Mode that records each torch function whose arguments come from the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []  # kept alive, so that an id is not used twice
        self.places: dict[int, int] = {}
        self.calls: list[tuple[Callable[..., Any], Any, Any]] = []

    def begin(self, logits: Tensor) -> None:
        """Start recording what is computed from these logits."""
        self.tensors, self.places, self.calls = [logits], {id(logits): 0}, []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function; record it where an argument comes from the output layer."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        if any(id(leaf) in self.places for leaf in leaves):
            recorded = [
                _Placeholder(self.places[id(x)]) if id(x) in self.places else x for x in leaves
            ]
            outputs = tree_map(self._to_placeholder, result)
            self.calls.append((func, tree_unflatten(recorded, structure), outputs))
        return result

    def _to_placeholder(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self.places:
            self.places[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return _Placeholder(self.places[id(value)])

    def list_calls_until(self, logits: Tensor) -> list[tuple[Callable[..., Any], Any, Any]]:
        """Return the calls between the output layer and the model's logits; none where they are equal.

        Raises:
            UserError: the logits do not come from the output layer.
        """
        if id(logits) not in self.places:
            raise UserError(
                "this model's logits do not come from its output layer in a way that can be followed.",
                where="model",
            )
        if self.places[id(logits)] == 0 and not any(_writes_in_place(call) for call in self.calls):
            return []
        return self.calls


def _writes_in_place(call: tuple[Callable[..., Any], Any, Any]) -> bool:
    """Whether a call writes into its first argument."""
    name = getattr(call[0], "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


class OutputHead:
    """Maps hidden states [.., d] to logits [.., V], as in the recorded forward pass.

    Args:
        layer: the output layer, adapters included.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.calls: list[tuple[Callable[..., Any], Any, Any]] = []
        self.last = 0

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits [.., V] of hidden states [.., d], with gradients."""
        if not self.calls:
            return torch.as_tensor(self.layer(hidden))
        rows = self.layer(hidden.reshape(1, -1, hidden.shape[-1]))
        logits = self._replay(rows)
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])

    def follow(self, recording: Recording, logits: Tensor) -> None:
        """Take over the calls recorded between the output layer and these logits."""
        self.calls = recording.list_calls_until(logits)
        self.last = recording.places[id(logits)]

    def _replay(self, rows: Tensor) -> Tensor:
        values: dict[int, Tensor] = {0: rows}

        def resolve(leaf: Any) -> Any:
            return values[leaf.index] if isinstance(leaf, _Placeholder) else leaf

        for func, (args, kwargs), outputs in self.calls:
            result = func(*tree_map(resolve, args), **tree_map(resolve, kwargs))
            for place, value in zip(tree_flatten(outputs)[0], tree_flatten(result)[0], strict=True):
                if isinstance(place, _Placeholder):
                    values[place.index] = value
        return values[self.last]


def compute_states_and_head(model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, OutputHead]:
    """Run a forward pass; return the output layer's input [B, T, d] and the head that follows it.

    A hook takes the output layer's input and passes an empty one on, so that no logits are computed
    and every model and wrapper works without knowledge of its parts.

    Raises:
        UserError: the model has no output layer, or its forward pass does not go through it.
    """
    bare: Any = getattr(model, "module", model)  # inside the wrapper of data parallelism
    layer = bare.get_output_embeddings()
    if layer is None:
        raise UserError("this model has no output layer that gives logits.", where="model")
    states: list[Tensor] = []
    recording, head = Recording(), OutputHead(layer)
    recording_scope = ExitStack()

    def take(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(args[0])
        return (args[0][:, :0], *args[1:])

    def watch(_: nn.Module, __: Any, logits: Tensor) -> None:
        recording.begin(logits)
        if len(states) == 1:
            recording_scope.enter_context(recording)

    hooks = [layer.register_forward_pre_hook(take), layer.register_forward_hook(watch)]
    try:
        output = model(**inputs, use_cache=False)
    finally:
        recording_scope.close()
        for hook in hooks:
            hook.remove()
    if not states:
        raise UserError("this model's forward does not pass its output layer.", where="model")
    head.follow(recording, getattr(output, "logits", output))
    return states[0], head
