"""Hosts for tests: the node's own host, peer table, DHT and JSON protocol, without a node.

As a script (`python hosts.py TRANSPORT`) it is one such host in a process of its own, to be
stopped or killed: it prints its peer id and addresses and lives until its standard input closes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from multiaddr import Multiaddr

from node import events as ev
from node.door import NodeDoor
from node.network.addresses import parse_addresses
from node.network.dht import Dht
from node.network.host import build_host, guard_handlers, running_host, set_handler
from node.network.identity import Identity, verify
from node.network.messages import JsonProtocol
from node.network.peers import Peers
from node.network.quiet import take_over_loggers
from node.network.streams import live_connections, open_stream
from node.swarm.records import RecordRefusedError, read_record, select

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0


class Here:
    """One host in this process, with what a node builds on it."""

    def __init__(
        self,
        transport: str = "tcp",
        *,
        ping_s: float = 60.0,
        guard: bool = True,
        stock: bool = False,
        query_timeout_s: float = 2.0,
    ) -> None:
        self.identity = Identity.create()
        self.peer_id = self.identity.peer_id
        self.transport = transport
        self.door = NodeDoor()
        self.host: BasicHost = build_host(self.identity, transport, stock=stock)
        self.broken: list[tuple[str, BaseException]] = []
        if guard:
            guard_handlers(self.host, self._handler_failed)
        self.peers = Peers(
            self.host, self.door.emit, transport=transport, ping_s=ping_s, silence_s=15.0
        )
        self.dht = Dht(
            self.host,
            self.peers,
            self.door.emit,
            check=self.check,
            select=select,
            timeout_s=query_timeout_s,
        )
        self.json = JsonProtocol(self.host, self.peers)
        self.refused: list[str] = []
        self.addresses: list[Multiaddr] = []

    def _handler_failed(self, name: str, error: BaseException) -> None:
        self.broken.append((name, error))
        self.door.emit(ev.Problem(at=0.0, level="debug", tag="P2P", sentence=name))

    def check(self, key: str, raw: bytes, from_peer: str) -> None:
        """The DHT's validator, without a book behind it."""
        try:
            read_record(key, raw, verify)
        except RecordRefusedError as error:
            self.refused.append(error.field)
            raise ValueError(str(error)) from error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Here]:
        """Listen on 127.0.0.1 and run the peer table and the DHT."""
        async with running_host(self.host, "127.0.0.1", 0, self.transport) as addresses:
            self.addresses = list(addresses)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.peers.run)
                nursery.start_soon(self.dht.run)
                yield self
                nursery.cancel_scope.cancel()

    def knows(self, peer_id: str, addresses: list[Multiaddr]) -> None:
        """Learn where a peer listens."""
        self.peers.learn(peer_id, addresses, "bootstrap")

    async def connect(self, other: Here | Other) -> None:
        """Connect to a peer and put it into the routing table."""
        self.knows(other.peer_id, other.addresses)
        assert await self.peers.connect(other.peer_id, force=True)
        await self.dht.add_peer(other.peer_id)

    def connections(self, other: Here | Other) -> list[Any]:
        """The open connections to a peer."""
        return live_connections(self.host, parsed(other))

    async def stream(self, other: Here | Other, protocol: str) -> INetStream:
        """A new stream to a peer."""
        stream, _ = await open_stream(self.host, parsed(other), protocol)
        return stream

    def serve(self, protocol: str, handler: Callable[[INetStream], Any]) -> None:
        """Answer a protocol."""
        set_handler(self.host, protocol, handler)

    async def until(self, condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Wait until the events made `condition` true; trio.TooSlowError after `seconds`."""
        with trio.fail_after(seconds):
            while not condition():
                wake = trio.Event()
                forget = self.door.subscribe(wake.set)
                await wake.wait()
                forget()

    def events(self, kind: type[ev.Event]) -> list[Any]:
        """The events of one kind so far."""
        return [item for item in self.door.events(0, 100_000)[0] if isinstance(item, kind)]


def parsed(other: Here | Other) -> Any:
    from node.network.identity import parse_peer_id

    return parse_peer_id(other.peer_id)


@asynccontextmanager
async def hosts(count: int, transport: str = "tcp", **more: Any) -> AsyncIterator[list[Here]]:
    """`count` running hosts, not connected."""
    give_back = take_over_loggers(lambda *_: None)
    try:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(Here(transport, **more).running())
                for _ in range(count)
            ]
    finally:
        give_back()


class Other:
    """A host in a process of its own."""

    def __init__(self, transport: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), transport],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._told: dict[str, Any] | None = None

    def _says(self) -> dict[str, Any]:
        if self._told is None:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1].decode("utf-8", "replace")[-2000:]
            self._told = json.loads(line)
        return self._told

    @property
    def peer_id(self) -> str:
        """Its peer id; waits for its start."""
        return str(self._says()["peer_id"])

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where it listens."""
        return parse_addresses(self._says()["addresses"], self.peer_id)

    def stop(self) -> None:
        """Suspend it: it keeps its sockets and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.communicate()


async def _serve(transport: str) -> None:
    async with hosts(1, transport) as [me]:
        told = {"peer_id": me.peer_id, "addresses": [str(item) for item in me.addresses]}
        print(json.dumps(told), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1])
