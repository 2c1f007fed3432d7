"""A peer that speaks the transfer protocol and then does one wrong thing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from transfer_kit import KIB, MemoryStream, Published, Swarm

from node.torrent import frames, messages
from node.torrent.messages import Why
from node.torrent.sizes import Block
from node.torrent.transfer.download import Download
from node.torrent.transfer.link import DataHead, Link, own_hello
from node.torrent.transfer.shared import OpenFile
from node.torrent.transfer.streams import StreamEndedError


class Scripted:
    """A peer that speaks the protocol and then does one wrong thing."""

    def __init__(self, stream: MemoryStream, published: Published) -> None:
        self.stream = stream
        self.published = published
        self.link = Link(stream)
        self.asked: list[Block] = []

    def send(self, message: messages.Message, req_id: int = 0) -> Awaitable[None]:
        return self.link.write(frames.encode(message, req_id))

    async def greet(self) -> None:
        """HELLO, OPEN_OK, and the piece layer where it is asked for, up to the first REQUEST."""
        await self.link.next()
        await self.send(own_hello())
        req_id, _ = await self.link.next()
        await self.send(messages.OpenOk(True), req_id)

    async def request(self) -> tuple[int, tuple[Block, ...]]:
        """The next REQUEST; hash requests before it are answered honestly."""
        while True:
            req_id, message = await self.link.next()
            assert not isinstance(message, DataHead)
            if isinstance(message, messages.Request):
                return req_id, message.blocks
            if isinstance(message, messages.HashRequest):
                await self.hashes(req_id, message, self.published.open())

    async def hashes(self, req_id: int, request: messages.HashRequest, file: OpenFile) -> None:
        if request.layer:
            tree = file.upper()
            nodes, uncles = tree.answer(request.layer, request.index, request.count, request.proof)
        else:
            piece = request.index >> file.layout.piece_layer
            nodes = file.leaves(piece).hashes(0, 0, request.count)
            uncles = b""
        await self.send(messages.Hashes(request, nodes, uncles), req_id)

    def content(self, piece: int, offset: int, length: int) -> bytes:
        start = piece * self.published.plan.piece_length + offset
        return self.published.content[start : start + length]

    async def data(self, block: Block, req_id: int = 0) -> None:
        await self.send(messages.Data(block.piece, block.offset, self.content(*block)), req_id)

    async def drain(self) -> None:
        """Read on and answer nothing."""
        while True:
            await self.link.next()

    # -- what they do wrong

    async def only_wrong_leaves(self, file: OpenFile) -> None:
        await self.greet()
        while True:
            req_id, message = await self.link.next()
            if isinstance(message, messages.HashRequest):
                await self.hashes(req_id, message, self.published.open() if message.layer else file)

    async def piece_of_elsewhere(self) -> None:
        """Right bytes of this very file, but of the piece before."""
        await self.greet()
        while True:
            req_id, blocks = await self.request()
            for piece, offset, length in blocks:
                other = self.content((piece or 2) - 1, offset, length)
                await self.send(messages.Data(piece, offset, other), req_id)

    async def replays(self) -> None:
        """Its first block again and again, whatever is asked."""
        await self.greet()
        first: messages.Data | None = None
        while True:
            req_id, blocks = await self.request()
            first = first or messages.Data(*blocks[0][:2], self.content(*blocks[0]))
            for block in blocks:
                same = messages.Data(block.piece, block.offset, first.data[: block.length])
                await self.send(same, req_id)

    async def shorter(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        await self.data(blocks[0]._replace(length=blocks[0].length - 16 * KIB), req_id)
        await self.drain()

    async def other_offset(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        await self.data(blocks[0]._replace(offset=16 * KIB, length=16 * KIB), req_id)
        await self.drain()

    async def lies_about_have(self) -> None:
        """It has nothing, says by and by that it has everything, and then has nothing."""
        await self.link.next()
        await self.send(own_hello())
        req_id, _ = await self.link.next()
        await self.send(messages.OpenOk(False), req_id)
        for piece in range(-(-self.published.plan.size // self.published.plan.piece_length)):
            await self.send(messages.Have((piece,)))
        while True:
            _, blocks = await self.request()
            await self.send(messages.Reject(tuple((block, Why.NOT_HERE) for block in blocks)))

    async def half_a_header(self) -> None:
        for byte in frames.encode(own_hello()):
            await self.link.write(bytes([byte]))
            await trio.sleep(1)

    async def header_loris(self) -> None:
        """After the greeting one byte of a header a second."""
        await self.greet()
        await self.request()
        while True:
            for byte in frames.HEADER.pack(8, messages.FrameType.PING, 0, 0, 1) + bytes(8):
                await self.link.write(bytes([byte]))
                await trio.sleep(2)

    async def never_reads(self) -> None:
        """It says HELLO and OPEN_OK without having read a byte, then makes us answer."""
        await self.send(own_hello())
        await self.send(messages.OpenOk(True))
        while True:
            await self.send(messages.Ping(bytes(8)))
            await trio.sleep(0.01)

    async def chokes_and_unchokes(self) -> None:
        """Every turn makes us ask anew; nothing is read any more."""
        await self.greet()
        await self.request()
        while True:
            await self.send(messages.Choke(100))
            await self.send(messages.Unchoke(8))
            await trio.sleep(0.02)

    async def stops_reading(self) -> None:
        await self.greet()
        await self.request()
        await trio.sleep_forever()

    async def floods_with_have(self) -> None:
        await self.greet()
        while True:
            await self.send(messages.Have((0,) * 1024))

    async def many_keys(self) -> None:
        """A HELLO of a million keys, and its length before it."""
        raw = b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}"
        await self.link.write(frames.HEADER.pack(len(raw), messages.FrameType.HELLO, 0, 0, 0))
        await self.link.write(raw)
        await self.drain()

    async def many_keys_that_fit(self) -> None:
        keys = b",".join(b'"%d":0' % number for number in range(400))
        await self.hello(b'{"v":2,' + keys + b"}")

    async def deep_hello(self) -> None:
        await self.hello(b'{"agent":' + b"[" * 4000)

    async def deep_unknown_key(self) -> None:
        await self.hello(b'{"v":2,"x":' + b"[" * 2000 + b"]" * 2000 + b"}")

    async def hello(self, raw: bytes) -> None:
        await self.link.write(frames.HEADER.pack(len(raw), messages.FrameType.HELLO, 0, 0, 0) + raw)
        await self.drain()

    async def endless_error(self) -> None:
        await self.link.write(frames.HEADER.pack(300 * KIB, messages.FrameType.ERROR, 0, 0, 0))
        await self.drain()

    async def unasked_data(self) -> None:
        await self.greet()
        await self.request()
        await self.data(Block(0, 0, 16 * KIB))
        await self.drain()

    async def twice(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        await self.data(blocks[0], req_id)
        await self.data(blocks[0], req_id)
        await self.drain()

    async def before_open(self) -> None:
        await self.link.next()
        await self.send(messages.Have((1,)))
        await self.drain()

    async def no_hello(self) -> None:
        await self.drain()

    async def no_open_ok(self) -> None:
        await self.link.next()
        await self.send(own_hello())
        await self.drain()

    async def slow_loris(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        raw = frames.data_head(*blocks[0], req_id) + bytes(blocks[0].length)
        for at in range(len(raw)):
            await self.link.write(raw[at : at + 1])
            await trio.sleep(1)

    async def falls_silent(self) -> None:
        await self.greet()
        await self.drain()

    async def ignores_requests(self) -> None:
        await self.greet()
        while True:
            await self.request()

    async def chokes_for_ever(self) -> None:
        await self.greet()
        while True:
            _, blocks = await self.request()
            await self.send(messages.Choke(100))
            for start in range(0, len(blocks), 64):
                part = blocks[start : start + 64]
                await self.send(messages.Reject(tuple((block, Why.CHOKED) for block in part)))

    async def refuses_all(self) -> None:
        await self.greet()
        while True:
            _, blocks = await self.request()
            await self.send(messages.Reject(tuple((block, Why.NOT_HERE) for block in blocks)))

    async def huge_frame(self) -> None:
        await self.greet()
        await self.link.write(frames.HEADER.pack(0xFFFFFFFF, messages.FrameType.DATA, 0, 0, 1))
        await self.drain()

    async def unknown_type(self) -> None:
        await self.greet()
        await self.link.write(frames.HEADER.pack(0, 0xEE, 0, 0, 1))
        await self.drain()

    async def have_of_nothing(self) -> None:
        await self.greet()
        await self.send(messages.Have((30_000,)))
        await self.drain()

    async def spare_bits(self) -> None:
        await self.link.next()
        await self.send(own_hello())
        req_id, _ = await self.link.next()
        await self.send(messages.OpenOk(False, b"\xff" * 7), req_id)
        await self.drain()

    async def unasked_hashes(self) -> None:
        await self.greet()
        request = messages.HashRequest(0, 0, 2, 0)
        await self.send(messages.Hashes(request, bytes(64), b""), 99)
        await self.drain()

    async def unasked_reject(self) -> None:
        await self.greet()
        await self.send(messages.Reject(((Block(0, 0, 16 * KIB), 1),)))
        await self.drain()

    async def floods(self) -> None:
        await self.greet()
        while True:
            await self.send(messages.Ping(bytes(8)))

    async def hangs_up(self) -> None:
        await self.greet()
        req_id, blocks = await self.request()
        raw = frames.data_head(*blocks[0], req_id) + bytes(blocks[0].length // 2)
        await self.link.write(raw)
        await self.stream.close()

    async def nonsense(self) -> None:
        await self.link.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await self.drain()


def scripted(
    swarm: Swarm, download: Download, name: str, script: Callable[[Scripted], Awaitable[None]]
) -> None:
    async def run(stream: MemoryStream) -> None:
        try:
            await script(Scripted(stream, swarm.published))
        except (StreamEndedError, messages.WireError):
            return

    swarm.peer(download, name, run)
