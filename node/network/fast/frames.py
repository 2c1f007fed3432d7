"""Yamux frames without I/O (/yamux/1.0.0, hashicorp's specification).

A frame is a header of 12 bytes (version, type, flags, stream id, length) and, for data, `length`
bytes of payload. Payload is handed on as it arrives; a frame is never assembled in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from node.network.fast.noise_messages import MAX_PLAINTEXT, Buffer

_header = Struct("!BBHII")
pack_header = _header.pack

HEADER_SIZE = 12
# One frame of this payload fills one Noise message.
MAX_PAYLOAD = MAX_PLAINTEXT - HEADER_SIZE

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
MORE = 4  # not on the wire: another piece of the last data frame's payload
SYN, ACK, FIN, RST = 1, 2, 4, 8

GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR, GO_AWAY_INTERNAL_ERROR = range(3)

INITIAL_WINDOW = 256 * 1024
MAX_LENGTH = 16 * 1024 * 1024
MAX_STREAM_ID = 2**32 - 1

# type, flags, stream id, length as in the header (0 for MORE), payload (may be empty)
Event = tuple[int, int, int, int, memoryview]

_EMPTY = memoryview(b"")


class FrameError(Exception):
    """The other side broke the protocol; the connection has to be closed."""


def frame(kind: int, flags: int, stream_id: int, length: int = 0) -> bytes:
    """A frame without payload."""
    return pack_header(0, kind, flags, stream_id, length)


class FrameReader:
    """Cuts a stream of bytes into frames, whatever the pieces it arrives in."""

    def __init__(self) -> None:
        self._partial = b""
        self._missing = 0
        self._stream = 0
        self._fin = 0

    @property
    def held(self) -> int:
        """Bytes kept from earlier pieces: less than one header."""
        return len(self._partial)

    def feed(self, data: Buffer) -> Iterator[Event]:
        """The frames in `data`; payloads are views of it. Exhaust it before the next call.

        The flag FIN of a data frame comes with the last piece of its payload, the others with the
        first. Raises FrameError at the first malformed header.
        """
        size, position = len(data), 0
        view = memoryview(data)
        while position < size:
            if self._missing:
                taken = min(self._missing, size - position)
                self._missing -= taken
                flags = 0 if self._missing else self._fin
                yield MORE, flags, self._stream, 0, view[position : position + taken]
                position += taken
                continue
            if self._partial or size - position < HEADER_SIZE:
                lacking = HEADER_SIZE - len(self._partial)
                self._partial += view[position : position + lacking]
                position += lacking
                if len(self._partial) < HEADER_SIZE:
                    return
                version, kind, flags, stream, length = _header.unpack(self._partial)
                self._partial = b""
            else:
                version, kind, flags, stream, length = _header.unpack_from(data, position)
                position += HEADER_SIZE
            if version or kind > GO_AWAY:
                raise FrameError(f"version {version} or frame type {kind} is unknown")
            if kind == DATA and length:
                if length > MAX_LENGTH:
                    raise FrameError(f"a frame of {length} bytes is longer than any window")
                taken = min(length, size - position)
                if taken < length:
                    self._missing, self._stream = length - taken, stream
                    self._fin, flags = flags & FIN, flags & ~FIN
                yield kind, flags, stream, length, view[position : position + taken]
                position += taken
            else:
                yield kind, flags, stream, length, _EMPTY
