"""Messages between server and clients as bytes: a few counters, then what the scheme sends."""

from __future__ import annotations

import struct
from typing import NamedTuple

REQUEST = struct.Struct("<I")  # round
REPLY = struct.Struct("<IIIIf")  # rows, tokens, supervised, forward passes, mean loss


class Reply(NamedTuple):
    """What a client answers.

    Attributes:
        rows: how many it holds; what it may be weighted with.
        tokens: that it trained on in this round, padding not counted.
        supervised: of these, those with a label.
        forwards: forward passes it made.
        loss: mean over its local steps.
        body: what the scheme sends.
    """

    rows: int
    tokens: int
    supervised: int
    forwards: int
    loss: float
    body: bytes

    def pack(self) -> bytes:
        """As it travels."""
        return REPLY.pack(*self[:5]) + self.body


def pack_request(round_: int, body: bytes) -> bytes:
    """The server's message of a round (counted from 0)."""
    return REQUEST.pack(round_) + body


def unpack_request(message: bytes) -> tuple[int, bytes]:
    """Round and body of a server's message."""
    return REQUEST.unpack_from(message)[0], message[REQUEST.size :]


def unpack_reply(message: bytes) -> Reply:
    """A client's message."""
    rows, tokens, supervised, forwards, loss = REPLY.unpack_from(message)
    return Reply(rows, tokens, supervised, forwards, loss, message[REPLY.size :])
