"""One call: its request as it arrives, its handler, and its answer as the client's windows let it out."""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from perdure.core.call import Call
from perdure.core.errors import ApiError, Code
from perdure.rpc.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, ErrorCode, frame, frame_head, reset, window_update
from perdure.rpc.http2.headers import RESPONSE, TRAILERS_OK, header_block
from perdure.rpc.http2.messages import PREFIX_BYTES, MessageReader, message_prefix, status_fields, unpack
from perdure.rpc.routes import Streaming, Unary

if TYPE_CHECKING:
    from perdure.rpc.http2.connection import CallHead, Connection

END = END_HEADERS | END_STREAM

# Everything of a whole answer but the message itself: the frames of the headers and before the data, then the frame of the trailers.
_BEFORE = struct.Struct(f">BHBBI{len(RESPONSE)}sBHBBIBI").pack
_BEHIND = struct.Struct(f">BHBBI{len(TRAILERS_OK)}s").pack

INCOMPLETE = ApiError(Code.INTERNAL, "grpc: the call ended before its request was complete")
# gRPC's own list of status codes names this one for a wrong number of messages; see docs/decisions.
NO_MESSAGE = ApiError(Code.UNIMPLEMENTED, "grpc: a call of this method has one request message, and this one had none")
TOO_MANY_MESSAGES = ApiError(Code.UNIMPLEMENTED, "grpc: a call of this method has one request message, and this one had more")
UNHEARD_MESSAGES = 16
UNHEARD = ApiError(Code.RESOURCE_EXHAUSTED, "grpc: more messages than the server listens to")
DEADLINE_EXCEEDED = ApiError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")


class Stream(ABC):
    """A call of one connection.

    granted: bytes that the client takes on this stream beyond what it takes on every new one, less what was sent. credit: bytes that it may
    still send. opened_at: the loop's time. deadline: nanoseconds since the epoch, or None. remote_ended: the client has said all there is
    to say. is_open: False once the answer is complete or nobody waits for it any more.
    """

    __slots__ = (
        "_call", "_connection", "_outgoing", "_started", "_task", "_trailers", "credit", "deadline", "empty_frames", "granted", "id",
        "is_open", "opened_at", "remote_ended",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream_id: int, head: CallHead, deadline: int | None) -> None:
        self.id = stream_id
        self.granted = 0
        self.credit = connection.credit
        self.opened_at = connection.heard_at
        self.deadline = deadline
        self.empty_frames = 0
        self.remote_ended = False
        self.is_open = True
        # Given to the handler and then forgotten: call and stream would keep each other alive.
        self._call: Call | None = Call(head.method, head.headers, deadline, self._is_connected)
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._outgoing: deque[memoryview] | None = None
        self._trailers: bytes | None = None

    def _is_connected(self) -> bool:
        return self.is_open

    def _take_call(self) -> Call:
        call, self._call = self._call, None
        assert call is not None
        return call

    @abstractmethod
    def feed(self, data: bytes, *, is_last: bool) -> None:
        """Data of the request has arrived."""

    # -- the answer -------------------------------------------------------------------------------
    def refuse(self, error: ApiError) -> None:
        """End the call with an error; what was not sent yet is not sent any more."""
        if not self.is_open:
            return
        fields = header_block(status_fields(error))
        block = fields if self._started else RESPONSE + fields
        self._drop_outgoing()
        self._connection.write(frame(HEADERS, END, self.id, self._connection.header_prefix() + block))
        self._end()

    def _send(self, response: bytes) -> None:
        if not self.is_open:
            return
        if not self._started:
            self._started = True
            self._connection.write(frame(HEADERS, END_HEADERS, self.id, self._connection.header_prefix() + RESPONSE))
        if self._outgoing is None:
            self._outgoing = deque()
        data = message_prefix(response) + response
        self._outgoing.append(memoryview(data))
        self._connection.unsent += len(data)
        self.pump()

    def pump(self) -> None:
        """Send what the windows let out; the rest waits for the client to open them."""
        connection = self._connection
        while self._outgoing and self.is_open:
            data = self._outgoing[0]
            window = self.granted + connection.stream_window
            size = min(len(data), connection.frame_size, window, connection.window)
            if size <= 0 or connection.is_paused:
                (connection.starved if window <= 0 else connection.blocked)[self.id] = self
                return
            self.granted -= size
            connection.window -= size
            connection.unsent -= size
            connection.write(frame_head(size, DATA, 0, self.id) + data[:size])
            if size == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = data[size:]
        if self._trailers is not None and self.is_open:
            connection.write(frame(HEADERS, END, self.id, self._trailers))
            self._end()

    def _drop_outgoing(self) -> None:
        if self._outgoing:
            self._connection.unsent -= sum(map(len, self._outgoing))
            self._outgoing = None

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
            self._drop_outgoing()
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


class UnaryCall(Stream):
    """One request message, one response. The handler begins when the request is complete, so that it never sees half of a mistake."""

    __slots__ = ("_encoding", "_held", "_reader", "_route", "_whole")

    def __init__(self, connection: Connection, stream_id: int, head: CallHead, deadline: int | None, route: Unary) -> None:
        super().__init__(connection, stream_id, head, deadline)
        self._route = route
        self._encoding = head.encoding
        self._held = 0
        #: A frame that may have been the whole request.
        self._whole = b""
        self._reader: MessageReader | None = None

    def feed(self, data: bytes, *, is_last: bool) -> None:
        if is_last:
            self.remote_ended = True
        try:
            # Nearly every request comes in one frame; many clients say in another one that this was all.
            if self._reader is not None:
                self._gather(data, is_last)
            elif self._whole:
                if is_last and not data:
                    self._begin(self._whole)
                    self._release()
                else:
                    self._gather(data, is_last)
            elif len(data) - PREFIX_BYTES != int.from_bytes(data[1:PREFIX_BYTES], "big"):
                self._gather(data, is_last)
            elif is_last:
                self._begin(data)
            else:
                self._whole = data
                self._hold(len(data))
        except ApiError as error:
            self.refuse(error)

    def _begin(self, data: bytes) -> None:
        """data: the request with what is before it."""
        message = data[PREFIX_BYTES:]
        if data[0]:
            message = unpack(message, self._encoding, self._connection.message_limit)
        self._task = self._connection.loop.create_task(self._answer(message, self._take_call()))

    def _gather(self, data: bytes, is_last: bool) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = MessageReader(self._encoding, self._connection.message_limit)
            reader.feed(self._whole)
        reader.feed(data)
        if not is_last:
            if reader.has_more_than_one():
                raise TOO_MANY_MESSAGES
            self._hold(len(data))
            return
        message = reader.next()
        if message is None:
            raise INCOMPLETE if len(reader) else NO_MESSAGE
        if len(reader):
            raise TOO_MANY_MESSAGES
        self._task = self._connection.loop.create_task(self._answer(message, self._take_call()))
        self._release()

    def _hold(self, size: int) -> None:
        self._held += size
        self._connection.hold(size)

    def _release(self) -> None:
        self._reader = None
        self._whole = b""
        self._connection.held -= self._held
        self._held = 0

    def _end(self) -> None:
        if self._held:
            self._release()
        super()._end()

    def abandon(self) -> None:
        self._release()
        super().abandon()

    async def _answer(self, message: bytes, call: Call) -> None:
        route = self._route
        try:
            response = await route.answer(message, call)
        except ApiError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.abandon()
            raise
        except Exception as error:
            self.refuse(self._connection.routes.bug(route.name, error))
        else:
            self._reply(response)

    def _reply(self, response: bytes) -> None:
        """The one response, and success."""
        if not self.is_open:
            return
        connection = self._connection
        length = len(response)
        size = PREFIX_BYTES + length
        if (
            size <= connection.frame_size
            and size <= self.granted + connection.stream_window
            and size <= connection.window
            and not connection.is_paused
            and not connection.has_prefix
        ):
            connection.window -= size
            stream_id = self.id
            connection.write(
                b"".join(
                    (
                        _BEFORE(
                            0, len(RESPONSE), HEADERS, END_HEADERS, stream_id, RESPONSE,
                            size >> 16, size & 0xFFFF, DATA, 0, stream_id, 0, length,
                        ),
                        response,
                        _BEHIND(0, len(TRAILERS_OK), HEADERS, END, stream_id, TRAILERS_OK),
                    )
                )
            )  # fmt: skip
            self._end()
        else:
            self._trailers = TRAILERS_OK
            self._send(response)


class Conversation(Stream):
    """Any number of requests and responses."""

    __slots__ = ("_messages", "_reader", "_route")

    def __init__(self, connection: Connection, stream_id: int, head: CallHead, deadline: int | None, route: Streaming) -> None:
        super().__init__(connection, stream_id, head, deadline)
        self._route = route
        self._reader = MessageReader(head.encoding, connection.message_limit)
        self._messages: asyncio.Queue[tuple[bytes, int] | ApiError | None] = asyncio.Queue()
        self._task = connection.loop.create_task(self._converse(self._take_call()))

    def feed(self, data: bytes, *, is_last: bool) -> None:
        if is_last:
            self.remote_ended = True
        reader, messages = self._reader, self._messages
        reader.feed(data)
        try:
            while True:
                before = len(reader)
                message = reader.next()
                if message is None:
                    break
                if messages.qsize() >= UNHEARD_MESSAGES:
                    raise UNHEARD
                messages.put_nowait((message, before - len(reader)))
        except ApiError as error:
            self.refuse(error)
            self._cancel()
            return
        if is_last:
            messages.put_nowait(INCOMPLETE if len(reader) else None)

    async def _requests(self) -> AsyncIterator[bytes]:
        while (found := await self._messages.get()) is not None:
            if isinstance(found, ApiError):
                raise found
            message, size = found
            # Only now may the client send more: a handler that does not listen fills no memory.
            if not self.remote_ended:
                self.credit += size
                self._connection.write(window_update(self.id, size))
            yield message

    async def _converse(self, call: Call) -> None:
        route = self._route
        try:
            async for response in route.converse(self._requests(), call):
                self._send(response)
        except ApiError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.abandon()
            raise
        except Exception as error:
            self.refuse(self._connection.routes.bug(route.name, error))
        else:
            if not self.is_open:
                return
            if not self._started:
                self._started = True
                self._connection.write(frame(HEADERS, END_HEADERS, self.id, self._connection.header_prefix() + RESPONSE))
            self._trailers = TRAILERS_OK
            self.pump()
