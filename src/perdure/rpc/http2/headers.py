"""Header blocks (RFC 7541): read by ``hpack``, and written without any state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError

from perdure.rpc.http2.frames import ConnectionFault, ErrorCode

HEADER_LIST_BYTES = 256 * 1024
"""Of all headers of one request. The usual 16 KiB would refuse the longer tokens of some identity providers."""

REMEMBERED_BLOCKS = 256
REMEMBERED_BYTES = 8_192
"""Of the headers that a block stands for. Longer ones are not worth the memory; a short block may stand for very long ones."""

RequestHeaders = dict[str, str]
Meaning = TypeVar("Meaning")


class HeaderReader(Generic[Meaning]):
    """Reads the header blocks of one connection.

    A client sends the same few blocks again and again, in a byte or two for each header that both sides know. What such a block means is
    remembered for as long as the table that it refers to stays as it is. interpret: what is made of the headers, and remembered.
    """

    def __init__(self, interpret: Callable[[RequestHeaders], Meaning]) -> None:
        self._decoder = Decoder(max_header_list_size=HEADER_LIST_BYTES)
        self._interpret = interpret
        self._remembered: dict[bytes, Meaning] = {}

    def read(self, block: bytes) -> Meaning:
        """What the headers of a block mean. Raises ConnectionFault.

        Names are in lower case; several values of one name are joined by commas.
        """
        remembered = self._remembered.get(block)
        if remembered is not None:
            return remembered
        table = self._decoder.header_table
        before = (table.maxsize, len(table.dynamic_entries), table.dynamic_entries[0] if table.dynamic_entries else None)
        try:
            pairs = self._decoder.decode(block)
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"unreadable headers: {error}") from error
        values: dict[str, list[str]] = {}
        size = 0
        for pair in pairs:
            name, value = _text(pair[0]), _text(pair[1])
            values.setdefault(name, []).append(value)
            size += len(name) + len(value)
        meaning = self._interpret({name: ",".join(several) for name, several in values.items()})
        after = (table.maxsize, len(table.dynamic_entries), table.dynamic_entries[0] if table.dynamic_entries else None)
        if after[:2] != before[:2] or after[2] is not before[2]:
            self._remembered.clear()
        elif size + len(block) <= REMEMBERED_BYTES and len(self._remembered) < REMEMBERED_BLOCKS:
            self._remembered[block] = meaning
        return meaning


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _integer(value: int, bits: int) -> bytes:
    """An integer whose first byte has so many bits left for it, the others being 0."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([value])
    encoded = bytearray([limit])
    value -= limit
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that neither side puts into its table."""
    return b"\x00" + _integer(len(name), 7) + name + _integer(len(value), 7) + value


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Any fields, as a block that does not depend on what was sent before."""
    return b"".join(_literal(name.encode("ascii"), value.encode("latin-1")) for name, value in fields)


STATUS_200 = b"\x88"
"""``:status: 200`` in the static table."""

RESPONSE = STATUS_200 + header_block([("content-type", "application/grpc"), ("grpc-accept-encoding", "identity,deflate,gzip")])
"""The headers before every answer's first message."""

TRAILERS_OK = header_block([("grpc-status", "0")])

TABLE_SIZE_ZERO = b"\x20"
"""Tells a client that shrank the table that we use none."""
