"""FedAvg: clients and server exchange the trained weights, and the server averages them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as read
from safetensors.torch import save as written

from ftcli.pipelines.federated.base import Federated
from ftcli.pipelines.federated.shared_model import SharedModel

if TYPE_CHECKING:
    from ftcli.trainer.context import TrainingContext


@dataclass
class FedAvg(Federated):
    """Federated averaging (McMahan et al. 2017, arXiv 1602.05629) with any method and optimizer.

    The trained weights are sent both ways: all weights with method=full, adapters with method=lora.
    Every client starts a new optimizer in every round.
    """

    def build_shared_model(self, context: TrainingContext) -> Weights:
        """Return the shared model on the weights of `context`."""
        return Weights(context)


class Weights(SharedModel):
    """The trained weights of the server's model; there is no other state."""

    def broadcast(self) -> bytes:
        """Return the trained weights as safetensors, in their own types."""
        return written(self._state())

    def load(self, body: bytes) -> None:
        """Load the weights into the model."""
        self.context.run.method.load_trained_tensors(self.context.run.model, read(body))

    def build_reply(self) -> bytes:
        """Return the client's weights, in the evaluation mode of its optimizer."""
        optimizer = self.context.run.optimizer_builder
        optimizer.swap_in_eval_weights()
        body = written(self._state())
        optimizer.restore_training_weights()
        return body

    def aggregate(self, replies: Sequence[tuple[float, bytes]]) -> None:
        """Load the weighted mean of the replies, summed in float64 for floating-point tensors."""
        total: dict[str, Any] = {}
        for weight, body in replies:
            for name, value in read(body).items():
                share = weight * value.double() if value.is_floating_point() else value
                summed = name in total and value.is_floating_point()
                total[name] = total[name] + share if summed else share
        current = self._state()
        mean = {name: value.to(current[name].dtype) for name, value in total.items()}
        self.context.run.method.load_trained_tensors(self.context.run.model, mean)

    def _state(self) -> dict[str, torch.Tensor]:
        state = self.context.run.get_trained_tensors()
        return {name: t.detach().cpu().contiguous() for name, t in state.items()}
