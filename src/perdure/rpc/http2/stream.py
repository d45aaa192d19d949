"""One call: its request as it arrives, its handler, and its answer as the client's windows let it out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from perdure.core.call import Call
from perdure.core.errors import ApiError, Code
from perdure.rpc.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, ErrorCode, frame, frame_head, reset
from perdure.rpc.http2.headers import RESPONSE, TRAILERS_OK, header_block
from perdure.rpc.http2.messages import PREFIX_BYTES, MessageReader, message_prefix, status_fields
from perdure.rpc.routes import Route, Unary

if TYPE_CHECKING:
    from perdure.rpc.http2.connection import Connection

END = END_HEADERS | END_STREAM

NO_MESSAGE = ApiError(Code.INTERNAL, "grpc: the call ended before its request was complete")
DEADLINE_EXCEEDED = ApiError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")


class Stream:
    """A call of one connection.

    window: bytes that the client still takes on this stream. remote_ended: the client has said all there is to say. is_open: False once the
    answer is complete or nobody waits for it any more.
    """

    __slots__ = (
        "_connection", "_messages", "_outgoing", "_reader", "_route", "_started", "_task", "_trailers", "call", "id", "is_open", "received",
        "remote_ended", "window",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream_id: int, route: Route, call: Call, reader: MessageReader, window: int) -> None:
        self.id = stream_id
        self.call = call
        self.window = window
        self.received = 0
        self.remote_ended = False
        self.is_open = True
        self._connection = connection
        self._route = route
        self._reader = reader
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[bytes | ApiError | None] | None = None
        self._started = False
        self._outgoing: deque[memoryview] = deque()
        self._trailers: bytes | None = None
        call.is_connected = lambda: self.is_open
        if not isinstance(route, Unary):
            self._messages = asyncio.Queue()
            self._task = connection.loop.create_task(self._converse())

    # -- the request ------------------------------------------------------------------------------
    def feed(self, data: bytes, *, is_last: bool) -> None:
        """Data of the request has arrived."""
        if is_last:
            self.remote_ended = True
        self._reader.feed(data)
        try:
            if self._messages is not None:
                while (message := self._reader.next()) is not None:
                    self._messages.put_nowait(message)
                if is_last:
                    self._messages.put_nowait(None)
            elif self._task is None:
                message = self._reader.next()
                if message is not None:
                    self._task = self._connection.loop.create_task(self._answer(message))
                elif is_last:
                    self.refuse(NO_MESSAGE)
        except ApiError as error:
            if self._messages is not None:
                self._messages.put_nowait(error)
            else:
                self.refuse(error)

    async def _requests(self) -> AsyncIterator[bytes]:
        assert self._messages is not None
        while (message := await self._messages.get()) is not None:
            if isinstance(message, ApiError):
                raise message
            yield message

    # -- the handler ------------------------------------------------------------------------------
    async def _answer(self, message: bytes) -> None:
        route = self._route
        assert isinstance(route, Unary)
        try:
            response = await route.answer(message, self.call)
        except ApiError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.abandon()
            raise
        except Exception as error:
            self.refuse(self._connection.routes.bug(route.name, error))
        else:
            self.reply(response)

    async def _converse(self) -> None:
        route = self._route
        assert not isinstance(route, Unary)
        try:
            async for response in route.converse(self._requests(), self.call):
                self._send(response)
        except ApiError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.abandon()
            raise
        except Exception as error:
            self.refuse(self._connection.routes.bug(route.name, error))
        else:
            if self.is_open:
                self._trailers = TRAILERS_OK
                self.pump()

    # -- the answer -------------------------------------------------------------------------------
    def reply(self, response: bytes) -> None:
        """The one response of a unary call, and success."""
        if not self.is_open:
            return
        connection = self._connection
        size = PREFIX_BYTES + len(response)
        if size <= connection.frame_size and size <= self.window and size <= connection.window and not connection.is_paused:
            self.window -= size
            connection.window -= size
            headers = connection.header_prefix() + RESPONSE
            connection.write(
                b"".join(
                    (
                        frame_head(len(headers), HEADERS, END_HEADERS, self.id), headers,
                        frame_head(size, DATA, 0, self.id), message_prefix(response), response,
                        frame_head(len(TRAILERS_OK), HEADERS, END, self.id), TRAILERS_OK,
                    )
                )
            )  # fmt: skip
            self._end()
        else:
            self._send(response)
            self._trailers = TRAILERS_OK
            self.pump()

    def refuse(self, error: ApiError) -> None:
        """End the call with an error; what was not sent yet is not sent any more."""
        if not self.is_open:
            return
        fields = header_block(status_fields(error))
        block = fields if self._started else RESPONSE + fields
        self._outgoing.clear()
        self._connection.write(frame(HEADERS, END, self.id, self._connection.header_prefix() + block))
        self._end()

    def _send(self, response: bytes) -> None:
        if not self.is_open:
            return
        if not self._started:
            self._started = True
            self._connection.write(frame(HEADERS, END_HEADERS, self.id, self._connection.header_prefix() + RESPONSE))
        self._outgoing.append(memoryview(message_prefix(response) + response))
        self.pump()

    def pump(self) -> None:
        """Send what the windows let out; the rest waits for the client to open them."""
        connection = self._connection
        while self._outgoing and self.is_open:
            data = self._outgoing[0]
            size = min(len(data), connection.frame_size, self.window, connection.window)
            if size <= 0 or connection.is_paused:
                connection.blocked[self.id] = self
                return
            self.window -= size
            connection.window -= size
            connection.write(frame_head(size, DATA, 0, self.id) + data[:size])
            if size == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = data[size:]
        if self._trailers is not None and self.is_open:
            connection.write(frame(HEADERS, END, self.id, self._trailers))
            self._end()

    def _end(self) -> None:
        """The answer is complete. A client that is still sending is told to stop."""
        self.is_open = False
        if not self.remote_ended:
            self._connection.write(reset(self.id, ErrorCode.NO_ERROR))
        self._connection.forget(self)

    # -- the end ------------------------------------------------------------------------------------
    def abandon(self) -> None:
        """Nobody waits for the answer any more: stop the handler."""
        if self.is_open:
            self.is_open = False
            self._connection.forget(self)
        self._cancel()

    def time_out(self) -> None:
        """The deadline has passed; the client has most likely gone already."""
        self.refuse(DEADLINE_EXCEEDED)
        self._cancel()

    def _cancel(self) -> None:
        task = self._task
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
