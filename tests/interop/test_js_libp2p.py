"""Conformance with js-libp2p: its Noise, Yamux, ping, identify and Kademlia against ours.

The peer is `js/peer.mjs`; its packages are installed from npm once into the user's cache folder.
Skipped, with the reason, where node or npm is missing or the packages cannot be had.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY, parse_identify_response
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.network.dht import Dht
from node.network.dialer import Dialer
from node.network.fast import FastYamux
from node.network.host import build_host, running_host, set_handler
from node.network.identity import Identity
from node.network.messages import JsonProtocol
from node.network.peers import Peers
from node.network.ping import PingStream
from node.network.streams import (
    end_writing,
    live_connections,
    open_stream,
    read_exactly,
    read_to_end,
)

pytestmark = [pytest.mark.slow]

SOURCE = Path(__file__).parent / "js"
INSTALL_S = 240
# Taken before the tests' fixtures point every folder of a node elsewhere.
CACHE = platformdirs.user_cache_path("swarmtui") / "interop-js"
SINK = "/conformance-sink/1"
ECHO = "/conformance-echo/1"
BULK = 8 << 20


@pytest.fixture(scope="session")
def js_folder() -> Path:
    """The folder with the peer and its installed packages."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are needed for the js-libp2p peer")
    wanted = (SOURCE / "package.json").read_text()
    folder = CACHE / hashlib.sha256(wanted.encode()).hexdigest()[:12]
    done = folder / "installed"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(wanted)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
        try:
            result = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm install took longer than {INSTALL_S} s")
        if result.returncode:
            pytest.skip(f"npm install failed: {result.stderr[-300:]}")
        done.touch()
    shutil.copy(SOURCE / "peer.mjs", folder / "peer.mjs")
    return folder


class JsPeer:
    """The running peer; `ask` sends one command."""

    def __init__(self, process: trio.Process, hello: dict[str, Any], lines: Lines) -> None:
        self._process = process
        self._lines = lines
        self.id = ID.from_base58(hello["peer"])
        self.address = Multiaddr(hello["addresses"][0].rsplit("/p2p/", 1)[0])

    async def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The answer to one command; fails the test when it is an error."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"do": do, **fields}).encode() + b"\n")
        with trio.fail_after(30):
            answer = await self._lines.next()
        assert "error" not in answer, answer
        return answer


class Lines:
    """JSON lines from a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> dict[str, Any]:
        while b"\n" not in self._data:
            more = await self._stream.receive_some()
            if not more:
                raise EOFError("the js peer has ended")
            self._data += more
        line, self._data = self._data.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass
class Ours:
    """Our side."""

    host: BasicHost
    peers: Peers
    dht: Dht
    address: str


@asynccontextmanager
async def _both(folder: Path) -> AsyncIterator[tuple[Ours, JsPeer]]:
    host = build_host(Identity.create(), "tcp")
    async with running_host(host, "127.0.0.1", 0, "tcp") as addresses, trio.open_nursery() as tasks:
        peers = Peers(host, lambda event: None, transport="tcp", ping_s=60, silence_s=60)
        dht = Dht(
            host,
            peers,
            lambda event: None,
            check=lambda key, value, sender: None,
            select=lambda values: values.index(max(values)),
            timeout_s=5,
        )
        tasks.start_soon(dht.run)
        process = await trio.lowlevel.open_process(
            ["node", "peer.mjs"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "NODE_NO_WARNINGS": "1"},
        )
        try:
            assert process.stdout is not None and process.stdin is not None
            lines = Lines(process.stdout)
            with trio.fail_after(30):
                js = JsPeer(process, await lines.next(), lines)
            yield Ours(host, peers, dht, f"{addresses[0]}/p2p/{host.get_id()}"), js
            await process.stdin.aclose()
            with trio.move_on_after(5):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        tasks.cancel_scope.cancel()


async def test_we_dial_js(js_folder: Path) -> None:
    async with _both(js_folder) as (ours, js):
        await Dialer(ours.host).dial(js.id, js.address)
        connection = live_connections(ours.host, js.id)[0]
        assert isinstance(connection.muxed_conn, FastYamux)

        ping = PingStream(ours.host, js.id)
        assert (await ping.measure(5))[0] > 0
        assert (await ping.measure(5))[0] > 0

        stream, _ = await open_stream(ours.host, js.id, str(IDENTIFY))
        answer = parse_identify_response(await read_to_end(stream, 1 << 16))
        assert "/ipfs/kad/1.0.0" in answer.protocols and ECHO in answer.protocols

        stream, _ = await open_stream(ours.host, js.id, SINK)
        data = os.urandom(BULK)
        await stream.write(data)
        await end_writing(stream)
        assert (await read_to_end(stream, 100)).decode() == hashlib.sha256(data).hexdigest()

        stream, _ = await open_stream(ours.host, js.id, ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, data)
            assert await read_exactly(stream, len(data)) == data
        await stream.close()
        stream, _ = await open_stream(ours.host, js.id, ECHO)
        await stream.reset()
        assert (await ping.measure(5))[0] > 0


async def test_js_dials_us(js_folder: Path) -> None:
    async with _both(js_folder) as (ours, js):

        async def sink(stream: INetStream) -> None:
            data = await read_to_end(stream, 2 * BULK)
            await stream.write(hashlib.sha256(data).hexdigest().encode())
            await end_writing(stream)

        set_handler(ours.host, SINK, sink)
        found = await js.ask("connection", address=ours.address)
        assert found == {"encryption": "/noise", "multiplexer": "/yamux/1.0.0"}
        assert (await js.ask("ping", address=ours.address))["ms"] >= 0
        found = await js.ask("identify", address=ours.address)
        assert found["peer"] == str(ours.host.get_id()) and SINK in found["protocols"]
        found = await js.ask("sink", address=ours.address, bytes=BULK)
        assert found["answer"] == found["sent"]


async def test_json_messages_both_ways(js_folder: Path) -> None:
    async with _both(js_folder) as (ours, js):
        own = str(ours.host.get_id())
        protocol = JsonProtocol(ours.host, ours.peers)

        async def answer(raw: bytes | None, peer_id: str) -> bytes:
            assert raw is not None
            return json.dumps({"from": peer_id, "got": json.loads(raw)}).encode()

        protocol.serve(answer)
        message = {"from": own, "message": "hello " * 30_000, "timestamp": 1}
        ours.peers.learn(str(js.id), [js.address], "bootstrap")
        body, _ = await protocol.request(str(js.id), json.dumps(message).encode(), 10)
        assert json.loads(body) == {"from": own, "got": message}
        found = await js.ask("json", address=ours.address, body=message)
        assert found == {"from": str(js.id), "got": message}


async def test_kademlia_put_and_get_both_ways(js_folder: Path) -> None:
    async with _both(js_folder) as (ours, js):
        peer_id = str(js.id)
        ours.peers.learn(peer_id, [js.address], "bootstrap")
        assert await ours.peers.connect(peer_id, force=True)
        await ours.dht.add_peer(peer_id)
        assert (await js.ask("routing", address=ours.address))["size"] == 1

        def record(who: str) -> str:
            return json.dumps({"peer_id": who, "timestamp": time.time()})

        key, value = "/llama-cluster/llama-cluster/shard/1", record("one")
        assert await ours.dht.put(key, value.encode()) == 1
        assert value in (await js.ask("get", key=key))["values"]

        key, value = "/llama-cluster/llama-cluster/shard/2", record("two")
        assert "PEER_RESPONSE" in (await js.ask("put", key=key, value=value))["events"]
        assert await ours.dht.get(key) == [value.encode()]
