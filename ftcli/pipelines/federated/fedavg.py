"""FedAvg: the trained weights themselves travel, and the server averages them."""

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
    from ftcli.trainer.loop import Loop


@dataclass
class FedAvg(Federated):
    """Federated averaging (McMahan et al. 2017, arXiv 1602.05629) with any method and optimizer.

    What the method trains travels both ways: all weights with method=full, adapters with
    method=lora. Optimizers begin anew at every client and round.
    """

    def build_shared_model(self, loop: Loop) -> Weights:
        """The trained weights as they are now."""
        return Weights(loop)


class Weights(SharedModel):
    """The global weights are those of the server's model; nothing else is kept."""

    def broadcast(self) -> bytes:
        """What the method trains, as safetensors in the types it has."""
        return written(self._state())

    def load(self, body: bytes) -> None:
        """Put them into the model."""
        self.loop.run.method.load_state(self.loop.run.model, read(body))

    def build_reply(self) -> bytes:
        """The client's weights, as its optimizer wants them judged."""
        optimizer = self.loop.run.optimizer
        optimizer.eval_mode()
        body = written(self._state())
        optimizer.train_mode()
        return body

    def aggregate(self, replies: Sequence[tuple[float, bytes]]) -> None:
        """The weighted mean, summed in float64 where there are floats."""
        total: dict[str, Any] = {}
        for weight, body in replies:
            for name, value in read(body).items():
                share = weight * value.double() if value.is_floating_point() else value
                summed = name in total and value.is_floating_point()
                total[name] = total[name] + share if summed else share
        current = self._state()
        mean = {name: value.to(current[name].dtype) for name, value in total.items()}
        self.loop.run.method.load_state(self.loop.run.model, mean)

    def _state(self) -> dict[str, torch.Tensor]:
        state = self.loop.run.trained_state()
        return {name: t.detach().cpu().contiguous() for name, t in state.items()}
