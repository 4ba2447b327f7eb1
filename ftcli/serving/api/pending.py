"""Requests under way: the events of their rows, handed to the client as a stream or as one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ftcli.serving.api.errors import ApiError, convert_error
from ftcli.serving.api.objects import Answer, to_event
from ftcli.serving.api.rows import End, Event, Failure, Piece, Row


@dataclass
class Pending:
    """The rows of one request, and their events in the order in which they happen."""

    answer: Answer
    rows: list[Row] = field(default_factory=list)
    events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)

    async def next(self) -> tuple[int, Piece | End]:
        """Return the next event and the number of its choice.

        Raises:
            ApiError: generation failed.
        """
        index, event = await self.events.get()
        if isinstance(event, Failure):
            raise convert_error(event.error)
        if isinstance(event, End):
            self.answer.ends[index] = event
        return index, event

    @property
    def complete(self) -> bool:
        """Whether every row has ended."""
        return len(self.answer.ends) == len(self.rows)

    def cancel(self) -> None:
        """Give up rows that have not ended."""
        for row in self.rows:
            row.cancelled = True


async def stream_events(pending: Pending, tells_usage: bool) -> AsyncIterator[str]:
    """Yield the events of a stream; rows are given up when the client leaves."""
    answer = pending.answer
    try:
        for index in range(len(pending.rows)):
            if opening := answer.opening(index):
                yield to_event(opening)
        while not pending.complete:
            index, event = await pending.next()
            if isinstance(event, End):
                if event.rest:
                    yield to_event(answer.chunk(index, event.rest))
                yield to_event(answer.chunk(index, "", event.reason))
            else:
                yield to_event(answer.chunk(index, event.text))
        if tells_usage:
            yield to_event(answer.last())
        yield to_event("[DONE]")
    except ApiError as error:
        yield to_event(error.body())
    finally:
        pending.cancel()


async def wait_for_answer(pending: Pending, request: Any) -> None:
    """Wait until every row has ended; rows are given up when the client leaves."""

    async def finish() -> None:
        while not pending.complete:
            await pending.next()

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(finish()), asyncio.create_task(leave())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ApiError(499, "the client has left.")
        tasks[0].result()
    finally:
        pending.cancel()
        for task in tasks:
            task.cancel()
