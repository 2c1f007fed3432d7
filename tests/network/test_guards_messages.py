"""Half-closed JSON requests: both transports, and peers that do not play by the rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hosts import Here, Other, hosts
from libp2p.abc import INetStream

from node.network import messages
from node.network.messages import JSON_MESSAGE, JsonProtocol, RequestFailed
from node.network.streams import end_writing, read_to_end


def echo(here: Here) -> list[bytes | None]:
    """Have a host answer with what it got; returns what it gets."""
    seen: list[bytes | None] = []

    async def serve(raw: bytes | None, peer_id: str) -> bytes:
        seen.append(raw)
        return b"too long" if raw is None else b"echo:" + raw

    here.json.serve(serve)
    return seen


async def nobody_served(here: Here) -> None:
    """Wait until every place is free again; the asking side may know of the end first."""
    with trio.fail_after(20):
        while here.json._serving:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("transport", ["tcp", "quic", "dual"])
@pytest.mark.parametrize("size", [0, 2, 1000, 200_000])
async def test_request_and_answer_are_ended_by_a_half_close(transport: str, size: int) -> None:
    """Without the half-close the answering side waits for ever. On QUIC the end of a stream that
    both sides finished comes as a reset whose cause is "closed": without `_is_end` every answer
    would be lost."""
    async with hosts(2, transport) as [a, b]:
        seen = echo(b)
        await a.connect(b)
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        for _ in range(3):
            answer, took = await a.json.request(b.peer_id, body, 20.0)
            assert answer == b"echo:" + body
            assert took > 0
        assert seen == [body] * 3
        assert b.broken == []


async def test_no_answer_over_quic_loses_its_last_packet() -> None:
    """Without `_left_behind` what arrives together with the end of a QUIC stream is lost, and a
    tenth of the answers of 10 kB are short, without any error."""
    async with hosts(2, "quic") as [a, b]:
        seen = echo(b)
        await a.connect(b)
        body = bytes(10_000)
        for _ in range(60):
            answer, _ = await a.json.request(b.peer_id, body, 20.0)
            assert len(answer) == len(body) + 5
        assert {len(raw or b"") for raw in seen} == {len(body)}


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "fast"])
async def test_both_sides_may_ask_at_once(stock: bool) -> None:
    async with hosts(2, stock=stock) as [a, b]:
        echo(a)
        echo(b)
        await a.connect(b)
        await b.until(lambda: b.peers.is_connected(a.peer_id))
        answers: list[bytes] = []

        async def ask(me: Here, you: Here, number: int) -> None:
            answers.append((await me.json.request(you.peer_id, b"%d" % number, 20.0))[0])

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ask, a, b, number)
                nursery.start_soon(ask, b, a, number)
        assert sorted(answers) == sorted([b"echo:%d" % number for number in range(8)] * 2)


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_a_request_that_never_ends_is_cut_off(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the deadline a peer holds the handler, and its place, for as long as it likes."""
    monkeypatch.setattr(messages, "READ_S", 0.2)
    async with hosts(2, transport) as [a, b]:
        seen = echo(b)
        await a.connect(b)
        stream = await a.stream(b, JSON_MESSAGE)
        await stream.write(b'{"half":')
        with trio.fail_after(20), pytest.raises(Exception):  # noqa: B017 - any end will do
            assert not await stream.read(1)
            raise EOFError
        assert seen == []
        monkeypatch.setattr(messages, "READ_S", 15.0)
        answer, _ = await a.json.request(b.peer_id, b"x", 20.0)
        assert answer == b"echo:x"
        await nobody_served(b)


async def test_a_request_that_trickles_is_cut_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "READ_S", 0.3)
    async with hosts(2) as [a, b]:
        seen = echo(b)
        await a.connect(b)
        stream = await a.stream(b, JSON_MESSAGE)
        with trio.fail_after(20), pytest.raises(Exception):  # noqa: B017 - any end will do
            while True:
                await stream.write(b" ")
                await trio.sleep(0.02)
        assert seen == []


async def test_more_requests_at_once_than_one_peer_may_have() -> None:
    """Without the cap one peer takes every place and the other peers wait."""
    async with hosts(3) as [a, b, c]:
        release = trio.Event()
        serving = 0
        most = 0

        async def serve(raw: bytes | None, peer_id: str) -> bytes:
            nonlocal serving, most
            serving += 1
            most = max(most, serving)
            if raw == b"wait":
                await release.wait()
            serving -= 1
            return b"done"

        b.json.serve(serve)
        await a.connect(b)
        await c.connect(b)
        answers: list[str] = []

        async def ask() -> None:
            try:
                answers.append((await a.json.request(b.peer_id, b"wait", 20.0))[0].decode())
            except RequestFailed:
                answers.append("refused")
                if answers.count("refused") == 20:
                    release.set()

        async with trio.open_nursery() as nursery:
            for _ in range(messages.MAX_SERVING_PER_PEER + 20):
                nursery.start_soon(ask)
            # Another peer is served while the first one's requests are waiting.
            answer, _ = await c.json.request(b.peer_id, b"now", 20.0)
            assert answer == b"done"
        assert answers.count("done") == messages.MAX_SERVING_PER_PEER
        assert answers.count("refused") == 20
        assert most <= messages.MAX_SERVING_PER_PEER + 1
        await nobody_served(b)
        assert (await a.json.request(b.peer_id, b"again", 20.0))[0] == b"done"


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_a_request_longer_than_the_limit_is_answered_as_such(transport: str) -> None:
    """Without the limit a peer fills this node's memory with one request."""
    async with hosts(2, transport) as [a, b]:
        small = JsonProtocol(b.host, b.peers, limit=1000)
        got: list[bytes | None] = []

        async def serve(raw: bytes | None, peer_id: str) -> bytes:
            got.append(raw)
            return b"too long"

        small.serve(serve)
        await a.connect(b)
        assert (await a.json.request(b.peer_id, b"x" * 1000, 20.0))[0] == b"too long"
        assert (await a.json.request(b.peer_id, b"x" * 1001, 20.0))[0] == b"too long"
        assert got == [b"x" * 1000, None]


async def test_an_endless_answer_is_refused() -> None:
    async with hosts(2) as [a, b]:

        async def flood(stream: INetStream) -> None:
            while True:
                await stream.write(b"x" * 65536)

        b.serve(JSON_MESSAGE, flood)
        await a.connect(b)
        with pytest.raises(RequestFailed, match="too long"):
            await a.json.request(b.peer_id, b"", 10.0)


@pytest.mark.parametrize("transport", ["tcp", "quic"])
@pytest.mark.parametrize("ending", ["reset", "close", "hang", "raise"])
async def test_whatever_the_other_side_does_the_request_ends(ending: str, transport: str) -> None:
    """A reset in the middle of an answer is a failure, never a short answer."""
    async with hosts(2, transport) as [a, b]:

        async def serve(stream: INetStream) -> None:
            await read_to_end(stream, 1000)
            if ending != "close":
                await stream.write(b"half an answ")
            if ending == "reset":
                await stream.reset()
            elif ending == "close":
                await stream.close()
            elif ending == "raise":
                raise RuntimeError("a bug")
            else:
                await trio.sleep_forever()

        b.serve(JSON_MESSAGE, serve)
        await a.connect(b)
        began = trio.current_time()
        if ending == "close":
            assert (await a.json.request(b.peer_id, b"x", 1.0))[0] == b""
        else:
            with pytest.raises(RequestFailed) as failed:
                await a.json.request(b.peer_id, b"x", 1.0)
            assert failed.value.timeout == (ending == "hang")
        assert trio.current_time() - began < 10


@pytest.mark.swarm
async def test_peers_that_are_unknown_or_gone(other: Callable[[str], Other]) -> None:
    there = other("tcp")
    async with hosts(1) as [a]:
        with pytest.raises(RequestFailed, match="not known"):
            await a.json.request(there.peer_id, b"x", 1.0)
        a.knows(there.peer_id, there.addresses)
        there.kill()
        with pytest.raises(RequestFailed, match="cannot be reached"):
            await a.json.request(there.peer_id, b"x", 20.0)


async def test_a_handler_that_fails_costs_one_stream() -> None:
    async with hosts(2) as [a, b]:

        async def serve(raw: bytes | None, peer_id: str) -> bytes:
            if raw == b"bad":
                raise RuntimeError("a bug")
            return b"fine"

        b.json.serve(serve)
        await a.connect(b)
        with pytest.raises(RequestFailed):
            await a.json.request(b.peer_id, b"bad", 20.0)
        assert (await a.json.request(b.peer_id, b"good", 20.0))[0] == b"fine"
        await nobody_served(b)
        assert len(b.broken) == 1


async def test_reading_to_the_end_stops_at_the_limit() -> None:
    async with hosts(2) as [a, b]:
        left: list[bytes] = []

        async def serve(stream: INetStream) -> None:
            left.append(await read_to_end(stream, 100))
            await stream.close()

        b.serve("/test/limit", serve)
        await a.connect(b)
        stream = await a.stream(b, "/test/limit")
        await stream.write(b"x" * 100)
        await end_writing(stream)
        with trio.fail_after(20):
            assert await read_to_end(stream, 10) == b""
        assert left == [b"x" * 100]
