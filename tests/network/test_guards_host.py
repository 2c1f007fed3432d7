"""The pitfalls of py-libp2p's hosts and connections, each with its guard."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest
import trio
from hosts import Other, hosts
from libp2p.abc import INetStream
from libp2p.network.stream.exceptions import StreamError

from node import events as ev
from node.errors import PlainError
from node.network.host import build_host, quiet_reset, running_host
from node.network.identity import Identity
from node.network.streams import StreamUnavailable, read_exactly

BROKEN = "/test/broken/1"
ECHO = "/test/echo/1"
SINK = "/test/sink/1"


async def echo(stream: INetStream) -> None:
    await stream.write(await read_exactly(stream, 4))


class Group(Exception):
    """Raised inside a nursery, so that it comes out as an ExceptionGroup."""


async def raise_plainly(stream: INetStream) -> None:
    raise RuntimeError("a bug in a handler")


async def raise_in_a_nursery(stream: INetStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        raise Group


async def raise_key_error_after_reading(stream: INetStream) -> None:
    await stream.read(1)
    raise KeyError("x")


@pytest.mark.parametrize(
    "handler", [raise_plainly, raise_in_a_nursery, raise_key_error_after_reading]
)
@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_an_exception_in_a_handler_ends_its_stream_and_nothing_else(
    handler: Callable[[INetStream], object], transport: str
) -> None:
    """Without guard_handlers the exception comes out of `host.run` and ends the node."""
    async with hosts(2, transport) as [a, b]:
        b.serve(BROKEN, handler)
        b.serve(ECHO, echo)
        await a.connect(b)
        for _ in range(3):
            # Depending on how fast the reset is, opening, writing or reading meets it.
            with trio.fail_after(20), pytest.raises((StreamUnavailable, StreamError, EOFError)):
                stream = await a.stream(b, BROKEN)
                await stream.write(b"x")
                await read_exactly(stream, 1)
        await b.until(lambda: len(b.broken) == 3)
        assert [name for name, _ in b.broken] == [BROKEN] * 3
        assert len(a.connections(b)) == 1
        stream = await a.stream(b, ECHO)
        await stream.write(b"ping")
        with trio.fail_after(20):
            assert await read_exactly(stream, 4) == b"ping"


async def test_cancelling_the_host_is_not_reported_as_a_broken_handler() -> None:
    async with hosts(2) as [a, b]:
        began = trio.Event()

        async def wait(stream: INetStream) -> None:
            began.set()
            await trio.sleep_forever()

        b.serve(BROKEN, wait)
        await a.connect(b)
        stream = await a.stream(b, BROKEN)
        await stream.write(b"x")
        with trio.fail_after(20):
            await began.wait()
    assert b.broken == []


@pytest.mark.parametrize(
    ("kind", "transport"),
    [("TCP", "tcp"), ("TCP", "dual"), ("UDP", "quic"), ("UDP", "dual")],
)
async def test_a_busy_port_is_named(kind: str, transport: str) -> None:
    """Without the check py-libp2p shares the port by SO_REUSEPORT, or returns without listening."""
    family = socket.SOCK_STREAM if kind == "TCP" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, family) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        if kind == "TCP":
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlainError) as refused:
            async with running_host(
                build_host(Identity.create(), transport), "127.0.0.1", port, transport
            ):
                pytest.fail("it listens on a port that is taken")
    assert f"{kind} port {port}" in refused.value.sentence
    assert "--port" in refused.value.next_step


async def test_a_port_another_node_listens_on_is_named() -> None:
    async with hosts(1, "dual") as [a]:
        port = int(str(a.addresses[0]).split("/")[4])
        with pytest.raises(PlainError) as refused:
            async with running_host(
                build_host(Identity.create(), "dual"), "127.0.0.1", port, "dual"
            ):
                pytest.fail("two nodes listen on one port")
    assert str(port) in refused.value.sentence


async def test_an_address_this_machine_does_not_have_is_named() -> None:
    with pytest.raises(PlainError) as refused:
        async with running_host(build_host(Identity.create(), "tcp"), "192.0.2.1", 0, "tcp"):
            pytest.fail("it listens on an address of another machine")
    assert "192.0.2.1" in refused.value.sentence
    assert "--listen" in refused.value.next_step


async def test_port_0_is_told_and_both_transports_share_a_number() -> None:
    async with hosts(1, "dual") as [a]:
        ports = {str(item).split("/")[4] for item in a.addresses}
        assert len(a.addresses) == 2
        assert len(ports) == 1
        assert ports != {"0"}


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "fast"])
async def test_writes_that_are_cancelled_leave_the_connection_whole(stock: bool) -> None:
    """Without SteadyNoise a write cancelled between encrypting and sending uses up a nonce: the
    other side cannot decrypt what follows and closes the connection with everything on it."""
    async with hosts(2, stock=stock) as [a, b]:

        async def sink(stream: INetStream) -> None:
            while await stream.read(65536):
                continue

        b.serve(SINK, sink)
        b.serve(ECHO, echo)
        await a.connect(b)
        [before] = a.connections(b)
        body = os.urandom(192 * 1024)
        for ticks in range(60):
            stream = await a.stream(b, SINK)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.write, body)
                for _ in range(ticks):  # every step of the write is cut off once
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await quiet_reset(stream)
        assert a.connections(b) == [before]
        stream = await a.stream(b, ECHO)
        await stream.write(b"fine")
        with trio.fail_after(20):
            assert await read_exactly(stream, 4) == b"fine"
        assert a.connections(b) == [before]


async def test_garbage_on_the_ports_is_survived() -> None:
    async with hosts(2, "dual") as [a, b]:
        port = int(str(b.addresses[0]).split("/")[4])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for size in (0, 1, 20, 100, 1200, 1400):
                for _ in range(20):
                    udp.sendto(os.urandom(size), ("127.0.0.1", port))
        http = b"GET / HTTP/1.1\r\n\r\n"
        for first in (b"", http, b"\x13/multistream/1.0.0\n", os.urandom(9999)):
            with trio.move_on_after(2):
                garbage = await trio.open_tcp_stream("127.0.0.1", port)
                await garbage.send_all(first + os.urandom(500))
                await garbage.aclose()
        await a.connect(b)
        b.serve(ECHO, echo)
        stream = await a.stream(b, ECHO)
        await stream.write(b"live")
        with trio.fail_after(20):
            assert await read_exactly(stream, 4) == b"live"


@pytest.mark.swarm
async def test_a_fresh_dial_to_a_killed_peer_is_refused_at_once(
    other: Callable[[str], Other],
) -> None:
    """The proof with which a lost peer goes OFFLINE without waiting for the silence limit."""
    there = other("tcp")
    async with hosts(1) as [a]:
        await a.connect(there)
        there.kill()
        began = trio.current_time()
        await a.until(lambda: bool(a.events(ev.PeerSilent)))
        assert trio.current_time() - began < 10  # the limit is 15 s
