"""How messages reach the clients and replies come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ftcli.pipelines.federated.client import Client


@dataclass
class ClientUpdate:
    """The replies of a round.

    Attributes:
        replies: by client.
        down, up: bytes of all messages to and from clients as the engine sends them.
    """

    replies: dict[int, bytes]
    down: int
    up: int


#: Message of each client -> their replies.
Exchange = Callable[[Mapping[int, bytes]], ClientUpdate]


class Engine(Protocol):
    """Runs the server's work and gives it a way to reach the clients."""

    def run(self, work: Callable[[Exchange], Any]) -> Any:
        """Do the work, and return what it returns."""


class LocalEngine:
    """All clients in this process, one after another, on the model that the server has too."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def run(self, work: Callable[[Exchange], Any]) -> Any:
        """Do the work here."""
        return work(self._exchange)

    def _exchange(self, messages: Mapping[int, bytes]) -> ClientUpdate:
        replies = {client: self.client.answer(client, text) for client, text in messages.items()}
        down, up = (sum(map(len, texts.values())) for texts in (messages, replies))
        return ClientUpdate(replies, down, up)
