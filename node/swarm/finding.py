"""The first peers of a node that was told of none, and what to say when there are none."""

from __future__ import annotations

import time

import trio

from node import events as ev
from node.door import NodeDoor
from node.network.bootstrap import MachineBoard, PeerCache, learn_texts
from node.network.mdns import mdns
from node.network.peers import Peers
from node.settings import Settings

ALONE_AFTER_S = 3.0


class Finding:
    """Remembered peers, this machine's nodes and mDNS; says so when the node is alone."""

    def __init__(
        self,
        settings: Settings,
        door: NodeDoor,
        peers: Peers,
        cache: PeerCache,
        board: MachineBoard,
        addresses: list[str],
    ) -> None:
        self._settings = settings
        self._door = door
        self._peers = peers
        self._cache = cache
        self._board = board
        self._addresses = addresses
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Look everywhere at once, until cancelled."""
        self._board.post(self._peers.own_id, self._addresses)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer_id in {*self._cache.load(), *self._board.read(self._peers)}:
                nursery.start_soon(self._peers.connect, peer_id)
            nursery.start_soon(self._say_alone)
            if self._settings.mdns and self._reachable():
                nursery.start_soon(self._mdns)
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _reachable(self) -> bool:
        return any("/127.0.0.1/" not in item and "/::1/" not in item for item in self._addresses)

    async def _mdns(self) -> None:
        try:
            async with mdns(
                self._peers.own_id, self._addresses, self._settings.cluster, self._found
            ):
                await trio.sleep_forever()
        except OSError as error:
            self._door.emit(
                ev.Problem(
                    at=time.time(),
                    level="info",
                    tag="DISCOVERY",
                    sentence=f"mDNS does not work on this network ({error.strerror or error}).",
                    next_step="Give the address of another node with --bootstrap.",
                )
            )

    def _found(self, peer_id: str, addresses: list[str]) -> None:
        if learn_texts(self._peers, peer_id, addresses, "mdns") and self._nursery is not None:
            self._nursery.start_soon(self._peers.connect, peer_id)

    async def _say_alone(self) -> None:
        await trio.sleep(ALONE_AFTER_S)  # the time the ways above get to find somebody
        if not self._settings.bootstrap and not self._peers.connected_ids():
            self._door.emit(ev.NodeAlone(at=time.time(), join_command=self.join_command()))

    def join_command(self) -> str:
        """The exact command with which the next node joins this one."""
        settings = self._settings
        state = self._door.state
        missing = [i for i in state.missing_shards if i not in settings.shards]
        words = ["swarmtui", "--shard", str(missing[0] if missing else 0)]
        if settings.total_shards != 4:
            words += ["--total-shards", str(settings.total_shards)]
        if settings.cluster != "llama-cluster":
            words += ["--cluster", settings.cluster]
        if settings.transport != "dual":
            words += ["--transport", settings.transport]
        return " ".join([*words, "--bootstrap", self._addresses[0] if self._addresses else "?"])
