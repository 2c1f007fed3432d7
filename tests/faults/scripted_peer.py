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

    async def data(self, block: Block, req_id: int = 0) -> None:
        start = block.piece * self.published.plan.piece_length + block.offset
        content = self.published.content[start : start + block.length]
        await self.send(messages.Data(block.piece, block.offset, content), req_id)

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
