"""The fast pair in whole hosts: against stock py-libp2p in both directions, and with itself."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fast_kit import DIRECTIONS, hosts, opened, read_hash, send_random
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY, parse_identify_response
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux

from node.network.dht import Dht
from node.network.dialer import Dialer
from node.network.fast import FastYamux
from node.network.host import build_host, running_host, set_handler
from node.network.identity import Identity
from node.network.messages import JsonProtocol
from node.network.peers import Peers
from node.network.streams import end_writing, live_connections, read_exactly, read_to_end

pytestmark = pytest.mark.parametrize(("dialling", "listening"), DIRECTIONS)


async def _echo(stream: INetStream) -> None:
    while True:
        try:
            data = await stream.read(65536)
        except StreamEOF:
            break
        await stream.write(data)
    await end_writing(stream)


def _muxer(host: BasicHost, peer: ID) -> object:
    return live_connections(host, peer)[0].muxed_conn


async def test_each_host_uses_what_it_was_built_with(dialling: str, listening: str) -> None:
    async with hosts(dialling, listening) as (one, two):
        kinds = {"ours": FastYamux, "stock": Yamux}
        assert type(_muxer(one, two.get_id())) is kinds[dialling]
        assert type(_muxer(two, one.get_id())) is kinds[listening]
        connection = live_connections(one, two.get_id())[0]
        assert connection.get_negotiated_muxer_protocol() == "/yamux/1.0.0"
        security = "/llama-noise-aesgcm/1.0.0" if dialling == listening else "/noise"
        assert connection.get_negotiated_security_protocol() == security
        assert str(connection.get_transport_addresses()[0]).startswith("/ip4/127.0.0.1/tcp/")


async def test_echo_of_random_sizes(dialling: str, listening: str) -> None:
    async with hosts(dialling, listening) as (one, two):
        for host in (one, two):
            set_handler(host, "/echo", _echo)
        chance = random.Random(7)
        for source, target in ((one, two), (two, one)):
            stream = await opened(source, target, "/echo")
            for size in (1, 11, 12, 13, 65506, 65507, 65508, 65519, 65520, 200_000):
                data = chance.randbytes(size)
                await stream.write(data)
                assert await read_exactly(stream, size) == data
            await stream.close()


async def test_many_streams_at_once(dialling: str, listening: str) -> None:
    async with hosts(dialling, listening) as (one, two):
        set_handler(two, "/echo", _echo)
        finished = 0

        async def one_stream(seed: int) -> None:
            nonlocal finished
            data = random.Random(seed).randbytes(20_000 + seed * 700)
            stream = await opened(one, two, "/echo")
            await stream.write(data)
            await end_writing(stream)
            assert await read_to_end(stream, len(data)) == data
            await stream.close()
            finished += 1

        async with trio.open_nursery() as nursery:
            for seed in range(60):
                nursery.start_soon(one_stream, seed)
        assert finished == 60


async def test_half_close_and_answer_to_the_end(dialling: str, listening: str) -> None:
    async with hosts(dialling, listening) as (one, two):

        async def reverse(stream: INetStream) -> None:
            data = await read_to_end(stream, 1 << 20)
            await stream.write(data[::-1])
            await end_writing(stream)

        set_handler(two, "/reverse", reverse)
        stream = await opened(one, two, "/reverse")
        await stream.write(b"abc" * 1000)
        await end_writing(stream)
        assert await read_to_end(stream, 1 << 20) == b"cba" * 1000
        with pytest.raises(StreamEOF):
            await stream.read(1)


async def test_reset_reaches_the_other_side_and_leaves_the_rest(
    dialling: str, listening: str
) -> None:
    async with hosts(dialling, listening) as (one, two):
        outcome: list[str] = []
        done = trio.Event()

        async def wait(stream: INetStream) -> None:
            await stream.write(b"!")
            try:
                await stream.read(1)
            except StreamReset:
                outcome.append("reset")
            except StreamEOF:
                outcome.append("end")
            done.set()

        set_handler(two, "/wait", wait)
        set_handler(two, "/echo", _echo)
        other = await opened(one, two, "/echo")
        stream = await opened(one, two, "/wait")
        assert await stream.read(1) == b"!"
        await stream.reset()
        with trio.fail_after(5):
            await done.wait()
        # Stock forgets the stream before its reader looks, and so calls a reset an end.
        assert outcome == ["reset" if listening == "ours" else "end"]
        await other.write(b"still here")
        assert await read_exactly(other, 10) == b"still here"


async def _both_ways(dialling: str, listening: str, size: int) -> None:
    async with hosts(dialling, listening) as (one, two):
        sums: dict[str, str] = {}
        finished = trio.Event()

        async def serve(stream: INetStream) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, stream, "there")
                sums["back sent"] = await send_random(stream.write, size, 2)
                await end_writing(stream)
            finished.set()

        async def receive(stream: INetStream, name: str) -> None:
            sums[f"{name} received"] = await read_hash(stream.read, size + 1, StreamEOF)

        set_handler(two, "/both", serve)
        stream = await opened(one, two, "/both")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, stream, "back")
            sums["there sent"] = await send_random(stream.write, size, 1)
            await end_writing(stream)
        await finished.wait()
        assert sums["there sent"] == sums["there received"] != hashlib.sha256().hexdigest()
        assert sums["back sent"] == sums["back received"] != sums["there sent"]


async def test_eight_mib_each_way(dialling: str, listening: str) -> None:
    await _both_ways(dialling, listening, 8 << 20)


@pytest.mark.slow
async def test_sixty_four_mib_each_way(dialling: str, listening: str) -> None:
    await _both_ways(dialling, listening, 64 << 20)


async def test_identify_and_ping(dialling: str, listening: str) -> None:
    async with hosts(dialling, listening) as (one, two):
        set_handler(two, "/echo", _echo)
        stream = await opened(one, two, str(IDENTIFY))
        answer = parse_identify_response(await read_to_end(stream, 1 << 16))
        assert "/ipfs/ping/1.0.0" in answer.protocols
        assert answer.public_key == two.get_public_key().serialize()
        assert await PingService(one).ping(two.get_id(), 3)


async def test_a_peer_of_unknown_id_is_dialled(dialling: str, listening: str) -> None:
    one = build_host(Identity.create(), "tcp", stock=dialling == "stock")
    two = build_host(Identity.create(), "tcp", stock=listening == "stock")
    set_handler(two, "/echo", _echo)
    async with (
        running_host(one, "127.0.0.1", 0, "tcp"),
        running_host(two, "127.0.0.1", 0, "tcp") as addresses,
    ):
        assert await Dialer(one).dial_unknown(addresses[0]) == two.get_id()
        stream = await opened(one, two, "/echo")
        await stream.write(b"hello")
        assert await read_exactly(stream, 5) == b"hello"


async def test_a_closed_host_disconnects_the_other(dialling: str, listening: str) -> None:
    async with hosts(dialling, listening) as (one, two):
        set_handler(two, "/echo", _echo)
        stream = await opened(one, two, "/echo")
        await two.disconnect(one.get_id())
        with trio.fail_after(5):
            with pytest.raises((StreamReset, StreamEOF)):
                await stream.read(1)
            while live_connections(one, two.get_id()):
                await trio.testing.wait_all_tasks_blocked(0.02)


# ------------------------------------------------------------ what runs above


@asynccontextmanager
async def _with_peers(
    dialling: str, listening: str
) -> AsyncIterator[list[tuple[BasicHost, Peers, Dht]]]:
    async with hosts(dialling, listening) as pair:
        found = []
        for host in pair:
            peers = Peers(host, lambda event: None, transport="tcp", ping_s=60, silence_s=60)
            dht = Dht(
                host,
                peers,
                lambda event: None,
                check=lambda key, value, sender: None,
                select=lambda values: values.index(max(values)),
                timeout_s=3,
            )
            found.append((host, peers, dht))
        async with trio.open_nursery() as nursery:
            for (_, peers, dht), other in zip(found, reversed(pair), strict=True):
                nursery.start_soon(dht.run)
                peer_id = str(other.get_id())
                entry = peers.learn(peer_id, list(other.get_transport_addrs()), "bootstrap")
                assert entry is not None
                await dht.add_peer(peer_id)
            yield found
            nursery.cancel_scope.cancel()


async def test_json_messages_both_ways(dialling: str, listening: str) -> None:
    async with _with_peers(dialling, listening) as pair:
        protocols = [JsonProtocol(host, peers) for host, peers, _ in pair]

        async def answer(raw: bytes | None, peer_id: str) -> bytes:
            assert raw is not None
            return json.dumps({"from": peer_id, "size": len(raw)}).encode()

        for protocol in protocols:
            protocol.serve(answer)
        for index in (0, 1):
            own, other = str(pair[index][0].get_id()), str(pair[1 - index][0].get_id())
            for size in (10, 100_000, 1 << 20):
                body, _ = await protocols[index].request(other, b"x" * size, 10)
                assert json.loads(body) == {"from": own, "size": size}


async def test_kademlia_put_and_get_both_ways(dialling: str, listening: str) -> None:
    async with _with_peers(dialling, listening) as pair:
        for index in (0, 1):
            key = f"/llama-cluster/llama-cluster/shard/{index}"
            value = json.dumps({"peer_id": f"p{index}", "timestamp": time.time()}).encode()
            assert await pair[index][2].put(key, value) == 1
            assert await pair[1 - index][2].get(key) == [value]
            assert await pair[1 - index][2].provide(f"{index}" * 64) == 1
