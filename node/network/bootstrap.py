"""Finding the first peers: bootstrap addresses, remembered peers, nodes on this machine, mDNS."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio
from multiaddr import Multiaddr

from node import events as ev
from node.errors import PlainError
from node.network.addresses import parse_addresses, parse_bootstrap, transport_of
from node.network.dialer import DIAL_S, DialFailed
from node.network.identity import parse_peer_id
from node.network.peers import Peers, Source

REDIAL_MAX_S = 60.0
MAX_REMEMBERED = 64
MAX_FILE_BYTES = 256 * 1024
SAVE_EVERY_S = 30.0
QUIC_FIRST_S = 1.5

Emit = Callable[[ev.Event], None]


def both_transports(address: Multiaddr, transport: str) -> list[Multiaddr]:
    """A bootstrap address and its twin on the other transport, the given one first.

    Nodes listen on UDP and TCP with one port number, so either form finds them. Only what
    `transport` ("dual", "quic", "tcp") allows is returned.
    """
    parts = str(address).split("/")
    base, port = "/".join(parts[:3]), parts[4]
    quic = Multiaddr(f"{base}/udp/{port}/quic-v1")
    tcp = Multiaddr(f"{base}/tcp/{port}")
    if transport == "dual":
        return [quic, tcp] if transport_of(address) == "quic" else [tcp, quic]
    return [quic] if transport == "quic" else [tcp]


class Bootstraps:
    """Keeps a connection to each bootstrap address, redialling after a drop."""

    def __init__(
        self,
        peers: Peers,
        emit: Emit,
        addresses: tuple[str, ...],
        *,
        transport: str,
        redial_s: float,
    ) -> None:
        self._peers = peers
        self._emit = emit
        self._texts = addresses
        self._transport = transport
        self._redial_s = redial_s
        self.ids: set[str] = set()
        self._targets = _targets(addresses)

    async def run(self) -> None:
        """Dial every address and keep it connected until cancelled."""
        async with trio.open_nursery() as nursery:
            for text, given, peer_id in self._targets:
                nursery.start_soon(self._keep, text, given, peer_id)

    async def _keep(self, text: str, given: list[Multiaddr], peer_id: str | None) -> None:
        wait = self._redial_s
        while True:
            try:
                found = await self._connect(given, peer_id)
            except DialFailed as error:
                self._emit(
                    ev.BootstrapLost(
                        at=time.time(), address=text, reason=error.reason, retry_in_s=round(wait, 1)
                    )
                )
                await trio.sleep(wait * random.uniform(0.8, 1.2))
                wait = min(wait * 1.6, REDIAL_MAX_S)
                continue
            wait = self._redial_s
            self.ids.add(found)
            self._emit(ev.BootstrapConnected(at=time.time(), address=text, peer_id=found))
            await self._peers.wait_lost(found)
            self.ids.discard(found)
            self._emit(
                ev.BootstrapLost(
                    at=time.time(),
                    address=text,
                    reason="the connection closed",
                    retry_in_s=round(wait, 1),
                )
            )
            await trio.sleep(wait * random.uniform(0.2, 0.6))

    async def _connect(self, given: list[Multiaddr], peer_id: str | None) -> str:
        candidates = self._candidates(given)
        if peer_id is not None:
            entry = self._peers.learn(peer_id, candidates, "bootstrap")
            if entry is None:
                raise DialFailed("this node itself listens there", refused=True)
            if await self._peers.connect(peer_id, force=True):
                return peer_id
            raise DialFailed("no answer")
        reason = DialFailed("no answer")
        for candidate in candidates:
            more = candidate is not candidates[-1]
            try:
                found = await self._peers.dial_unknown(
                    candidate, "bootstrap", QUIC_FIRST_S if more else DIAL_S
                )
            except DialFailed as error:
                reason = error
                continue
            self._peers.learn(found, candidates, "bootstrap")
            self._peers.add_tcp_soon(found)
            return found
        raise reason

    def _candidates(self, given: list[Multiaddr]) -> list[Multiaddr]:
        """The given addresses, and their twins for a transport that none of them covers."""
        twins = [item for address in given for item in both_transports(address, self._transport)]
        covered = {transport_of(item) for item in given}
        extra = [item for item in twins if transport_of(item) not in covered]
        own = [item for item in given if item in twins]
        return list({str(item): item for item in own + extra}.values())


def _targets(texts: tuple[str, ...]) -> list[tuple[str, list[Multiaddr], str | None]]:
    """One entry per bootstrap node: addresses that name the same peer belong together."""
    result: list[tuple[str, list[Multiaddr], str | None]] = []
    for text in texts:
        address, peer_id = parse_bootstrap(text)
        same = next((item for item in result if peer_id and item[2] == peer_id), None)
        if same is not None:
            same[1].append(address)
        else:
            result.append((text, [address], peer_id))
    return result


class _Remembered(msgspec.Struct):
    peer_id: str
    addresses: list[str]
    seen: float = 0.0


class _Memory(msgspec.Struct):
    cluster: str
    peers: list[_Remembered]


class PeerCache:
    """Peers remembered on disk, so that a node comes back without its rendezvous node."""

    def __init__(self, peers: Peers, path: Path, cluster: str, emit: Emit) -> None:
        self._peers = peers
        self._path = path
        self._cluster = cluster
        self._emit = emit
        self._saved: set[tuple[str, tuple[str, ...]]] = set()
        self._changed = trio.Event()
        peers.on_connected(lambda peer_id, outbound: self._changed.set())

    def load(self) -> list[str]:
        """Learn the remembered peers; returns their ids. A damaged file counts as empty."""
        try:
            if self._path.stat().st_size > MAX_FILE_BYTES:
                return []
            memory = msgspec.json.decode(self._path.read_bytes(), type=_Memory)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []
        if memory.cluster != self._cluster:
            return []
        return [
            item.peer_id
            for item in memory.peers[:MAX_REMEMBERED]
            if learn_texts(self._peers, item.peer_id, item.addresses, "cache")
        ]

    def save(self) -> None:
        """Write the connected peers, and the known ones after them."""
        known = sorted(self._peers.known, key=lambda item: (not item.transports, -item.heard))
        entries = [
            _Remembered(item.peer_id, [str(address) for address in item.addresses], time.time())
            for item in known
            if item.addresses and (item.heard or item.transports)
        ][:MAX_REMEMBERED]
        if not entries:
            return
        now = {(item.peer_id, tuple(item.addresses)) for item in entries}
        if now == self._saved:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(msgspec.json.encode(_Memory(self._cluster, entries)))
            os.replace(temporary, self._path)
            self._saved = now
        except OSError as error:
            self._emit(
                ev.Problem(
                    at=time.time(),
                    level="warning",
                    tag="P2P",
                    sentence=f"The peers cannot be remembered: {error.strerror}.",
                    next_step=f"Free space or permit writing in {self._path.parent}.",
                )
            )

    async def run(self) -> None:
        """Save soon after the connections change, and every half minute."""
        while True:
            with trio.move_on_after(SAVE_EVERY_S):
                await self._changed.wait()
            self._changed = trio.Event()
            self.save()


def learn_texts(peers: Peers, peer_id: str, addresses: list[str], source: Source) -> bool:
    """Learn a peer from text; whether it was usable and is not this node itself."""
    try:
        parse_peer_id(peer_id)
    except ValueError:
        return False
    parsed = parse_addresses(addresses, peer_id)
    return bool(parsed) and peers.learn(peer_id, parsed, source) is not None


class MachineBoard:
    """Nodes of one cluster on one machine find each other by small files in the runtime folder."""

    def __init__(self, folder: Path, name: str, cluster: str) -> None:
        self._folder = folder
        self._path = folder / name / "node.json"
        self._cluster = cluster

    def post(self, peer_id: str, addresses: list[str]) -> None:
        """Say where this node listens. A folder that cannot be written is not fatal."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            body = {
                "cluster": self._cluster,
                "peers": [{"peer_id": peer_id, "addresses": addresses}],
            }
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(body), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            return

    def read(self, peers: Peers) -> list[str]:
        """Learn the other nodes posted here; returns their ids (some may be gone)."""
        found = []
        for path in sorted(self._folder.glob("*/node.json"))[:MAX_REMEMBERED]:
            if path == self._path:
                continue
            try:
                if path.stat().st_size > MAX_FILE_BYTES or path.stat().st_uid != os.getuid():
                    continue
                posted = msgspec.json.decode(path.read_bytes(), type=_Memory)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if posted.cluster == self._cluster:
                found += [
                    item.peer_id
                    for item in posted.peers[:4]
                    if learn_texts(peers, item.peer_id, item.addresses, "machine")
                ]
        return found

    def remove(self) -> None:
        """Take this node's file away."""
        with contextlib.suppress(OSError):  # it could not be written either
            self._path.unlink()


def check_bootstraps(texts: tuple[str, ...]) -> None:
    """PlainError for the first address that is not understood; before anything starts."""
    for text in texts:
        address, peer_id = parse_bootstrap(text)
        if transport_of(address) is None:
            raise PlainError(f"The bootstrap address '{text}' is neither QUIC nor TCP.")
        if peer_id is not None:
            try:
                parse_peer_id(peer_id)
            except ValueError as error:
                raise PlainError(
                    f"The bootstrap address '{text}' ends in something that is no peer id.",
                    "Copy the whole address from the other node, or leave /p2p/... out.",
                ) from error
