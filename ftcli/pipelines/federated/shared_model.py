"""What server and clients have in common: how the model travels, and how replies are joined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.core.callback import Callback

if TYPE_CHECKING:
    from ftcli.trainer.loop import Loop


class SharedModel(Callback, ABC):
    """The global model in one process: on the server what it is, on a client what was received.

    It takes part in the loop, so that `after_step` sees every local step; its state is checkpointed
    with the rest of the server.

    Args:
        loop: with the initial model, which every process loads for itself.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    @abstractmethod
    def broadcast(self) -> bytes:
        """What the server sends to each client of a round."""

    @abstractmethod
    def load(self, body: bytes) -> None:
        """Put the global model that was sent into the model of this process."""

    def begin_client(self, optimizer: Any, body: bytes) -> None:
        """A client begins its local steps with this new optimizer."""

    @abstractmethod
    def build_reply(self) -> bytes:
        """What a client sends back after its local steps."""

    @abstractmethod
    def aggregate(self, replies: Sequence[tuple[float, bytes]]) -> None:
        """Server: the new global model from (weight, reply) pairs; the weights sum to 1."""

    def write_files(self, folder: Path) -> None:
        """Write what is worth keeping beside the checkpoints into the run's folder."""
