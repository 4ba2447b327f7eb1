"""The global model as server and clients hold it: what is sent, and how replies are aggregated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import Callback

if TYPE_CHECKING:
    from ftcli.trainer.context import TrainingContext


class SharedModel(Callback, ABC):
    """The global model in one process: the present one on the server, the received one on a client.

    It is a callback of the loop, so that `after_step` sees every local step; its state is checkpointed
    with that of the server.

    Args:
        context: training context with the initial model, which every process loads for itself.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.context = context

    @abstractmethod
    def broadcast(self) -> bytes:
        """Return the body that the server sends to each client of a round."""

    @abstractmethod
    def load(self, body: bytes) -> None:
        """Load the global model that was sent into the model of this process."""

    def begin_client(self, optimizer: Any, body: bytes) -> None:
        """Called when a client begins its local steps with this new optimizer."""

    @abstractmethod
    def build_reply(self) -> bytes:
        """Return the body of the reply of a client after its local steps."""

    @abstractmethod
    def aggregate(self, replies: Sequence[tuple[float, bytes]]) -> None:
        """Update the global model of the server from (weight, reply) pairs; the weights sum to 1."""

    def write_files(self, folder: Path) -> None:
        """Write further files into the run's folder after a round."""
