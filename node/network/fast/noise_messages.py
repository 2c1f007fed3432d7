"""Noise transport messages without I/O: sealing plaintext, opening what was received.

A message is a length of 2 bytes (big-endian) and that many bytes of ciphertext, whose last 16
are the authentication tag. The nonce is a counter per direction. Sources: the Noise Protocol
Framework (revision 34, section 12.3) and libp2p's noise specification.
"""

from __future__ import annotations

from struct import Struct
from typing import TypeAlias

from cryptography.exceptions import InvalidTag

from node.network.fast.buffers import BufferPool
from node.network.fast.suites import CHACHA_POLY, Suite

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_CIPHERTEXT = 65535
TAG_SIZE = 16
MAX_PLAINTEXT = MAX_CIPHERTEXT - TAG_SIZE

_length = Struct("!H").pack

SMALL_BUFFER = 4096
POOLED_FROM = 4096
"""Shorter messages are not worth a buffer of their own."""
MESSAGE_BUFFER = 128 * 1024
LARGE_BUFFER = 512 * 1024
QUIET_READS = 64


class BadMessage(Exception):
    """A received message is malformed or not authentic; nothing after it can be read."""


class _Direction:
    """The key of one direction. `nonce` is the next message's; the key changes by the suite."""

    def __init__(self, key: bytes, nonce: int, suite: Suite) -> None:
        self._suite = suite
        self._pack = suite.nonce
        self._cipher = suite.cipher(key)
        self.nonce = nonce
        self._rekey_at = (nonce // suite.messages_per_key + 1) * suite.messages_per_key

    def _rekey(self) -> None:
        self._cipher = self._suite.cipher(self._suite.next_key(self._cipher))
        self._rekey_at += self._suite.messages_per_key


class Sealer(_Direction):
    """Encrypts one direction of a session."""

    def __init__(self, key: bytes, nonce: int = 0, suite: Suite = CHACHA_POLY) -> None:
        super().__init__(key, nonce, suite)

    def seal(self, plaintext: Buffer) -> tuple[bytes, bytes]:
        """Length prefix and ciphertext of one message of at most MAX_PLAINTEXT bytes."""
        if self.nonce == self._rekey_at:
            self._rekey()
        sealed = self._cipher.encrypt(self._pack(self.nonce), plaintext, None)
        prefix = _length(len(sealed))
        self.nonce += 1
        return prefix, sealed


class Opener(_Direction):
    """Decrypts one direction of a session, as many messages per read as have arrived.

    The caller reads into `space()` and calls `filled(n)`. The buffer is a few KiB while little
    arrives (a node keeps hundreds of idle connections) and up to 512 KiB while much does; larger
    ones leave the processor's cache and are slower.
    """

    def __init__(self, key: bytes, nonce: int = 0, suite: Suite = CHACHA_POLY) -> None:
        super().__init__(key, nonce, suite)
        self._buffer = bytearray(SMALL_BUFFER)
        self._start = 0
        self._end = 0
        self._quiet = 0
        self._pool = BufferPool(MAX_PLAINTEXT)

    @property
    def capacity(self) -> int:
        """Bytes allocated for received ciphertext; never more than LARGE_BUFFER."""
        return len(self._buffer)

    def space(self) -> memoryview:
        """Where the next bytes from the wire go; at least one byte long."""
        return memoryview(self._buffer)[self._end :]

    def filled(self, count: int) -> list[Buffer]:
        """Take `count` bytes written into `space()`; the plaintexts of all complete messages.

        A long plaintext is a view of memory that is used again once no view of it is left.
        Raises BadMessage when a message is too short or fails its authentication.
        """
        buffer = self._buffer
        was_full = self._end + count == len(buffer)
        position, end = self._start, self._end + count
        view = memoryview(buffer)
        messages: list[Buffer] = []
        self._pool.rewind()
        needed = 2
        try:
            while end - position >= 2:
                size = buffer[position] << 8 | buffer[position + 1]
                if size < TAG_SIZE:
                    raise BadMessage(f"a Noise message of {size} bytes has no room for its tag")
                if end - position - 2 < size:
                    needed = size + 2
                    break
                if self.nonce == self._rekey_at:
                    self._rekey()
                position += 2
                sealed = view[position : position + size]
                messages.append(self._open(sealed))
                self.nonce += 1
                position += size
        except InvalidTag:
            raise BadMessage("a Noise message is not authentic") from None
        self._keep(position, end, needed, was_full, count)
        return messages

    def _open(self, sealed: memoryview) -> Buffer:
        nonce = self._pack(self.nonce)
        if len(sealed) < POOLED_FROM:
            return self._cipher.decrypt(nonce, sealed, None)
        plaintext = memoryview(self._pool.take())[: len(sealed) - TAG_SIZE]
        self._cipher.decrypt_into(nonce, sealed, None, plaintext)
        return plaintext

    def _keep(self, start: int, end: int, needed: int, was_full: bool, count: int) -> None:
        """Make room for the rest of an incomplete message, and choose the buffer's size."""
        capacity = len(self._buffer)
        rest = end - start
        wanted = capacity
        if was_full:
            wanted = min(max(capacity * 4, MESSAGE_BUFFER), LARGE_BUFFER)
        elif needed > capacity:
            wanted = MESSAGE_BUFFER
        self._quiet = self._quiet + 1 if count < SMALL_BUFFER else 0
        if self._quiet >= QUIET_READS and rest < SMALL_BUFFER and needed <= SMALL_BUFFER:
            wanted = SMALL_BUFFER
            self._pool.clear()
        if wanted != capacity:
            larger = bytearray(wanted)
            larger[:rest] = self._buffer[start:end]
            self._buffer, start, end = larger, 0, rest
        elif not rest:
            start = end = 0
        elif wanted - start < MESSAGE_BUFFER:
            self._buffer[:rest] = self._buffer[start:end]
            start, end = 0, rest
        self._start, self._end = start, end
