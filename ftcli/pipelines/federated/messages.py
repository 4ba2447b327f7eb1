"""Messages between server and clients as bytes: counters, then the body of the scheme."""

from __future__ import annotations

import struct
from typing import NamedTuple

REQUEST = struct.Struct("<I")  # round
REPLY = struct.Struct("<IIIIf")  # rows, tokens, supervised, forward passes, mean loss


class Reply(NamedTuple):
    """Reply of a client.

    Attributes:
        rows: number of rows that the client holds, a possible weight of its reply.
        tokens: tokens trained on in this round, without padding.
        supervised: tokens with a label among these.
        forwards: number of forward passes.
        loss: mean loss over the local steps.
        body: bytes of the scheme.
    """

    rows: int
    tokens: int
    supervised: int
    forwards: int
    loss: float
    body: bytes

    def pack(self) -> bytes:
        """Return the reply as bytes."""
        return REPLY.pack(*self[:5]) + self.body


def pack_request(round_: int, body: bytes) -> bytes:
    """Return the request of a round (counted from 0) as bytes."""
    return REQUEST.pack(round_) + body


def unpack_request(message: bytes) -> tuple[int, bytes]:
    """Return round and body of a request."""
    return REQUEST.unpack_from(message)[0], message[REQUEST.size :]


def unpack_reply(message: bytes) -> Reply:
    """Return the reply in the bytes of a client."""
    rows, tokens, supervised, forwards, loss = REPLY.unpack_from(message)
    return Reply(rows, tokens, supervised, forwards, loss, message[REPLY.size :])
