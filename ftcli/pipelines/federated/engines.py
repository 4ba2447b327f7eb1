"""Engines: how requests reach the clients and replies return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ftcli.pipelines.federated.client import Client


@dataclass
class ClientUpdate:
    """The replies of the clients of a round.

    Attributes:
        replies: client -> reply.
        down, up: bytes of all requests and replies as the engine sends them.
    """

    replies: dict[int, bytes]
    down: int
    up: int


#: Maps client -> request to the replies.
Exchange = Callable[[Mapping[int, bytes]], ClientUpdate]


class Engine(Protocol):
    """Runs the work of the server with an exchange that reaches the clients."""

    def run(self, work: Callable[[Exchange], Any]) -> Any:
        """Call `work` with an exchange; returns its result."""


class LocalEngine:
    """All clients in this process, one after another, on the model of the server."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def run(self, work: Callable[[Exchange], Any]) -> Any:
        """Call `work` in this process."""
        return work(self._exchange)

    def _exchange(self, messages: Mapping[int, bytes]) -> ClientUpdate:
        replies = {client: self.client.answer(client, text) for client, text in messages.items()}
        down, up = (sum(map(len, texts.values())) for texts in (messages, replies))
        return ClientUpdate(replies, down, up)
