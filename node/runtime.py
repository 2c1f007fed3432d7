"""Node: one trio nursery; services start in order and stop in reverse.

`run_headless` is a server's whole life; `start_in_thread` gives a console its node. Either way the
node owns its trio loop, emits through its door, and leaves the swarm politely within LEAVE_S.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from node import __version__, events as ev
from node.clean import clean
from node.door import NodeDoor
from node.door_server import serve_door
from node.errors import PlainError
from node.journal import Journal
from node.network import quiet
from node.network.bootstrap import Bootstraps, MachineBoard, PeerCache, check_bootstraps
from node.network.bulk import BulkStreams
from node.network.dht import Dht
from node.network.gossip import Gossip
from node.network.host import build_host, close_connections, guard_handlers, running_host
from node.network.identity import Identity, IdentityFile, verify
from node.network.messages import JsonProtocol
from node.network.peers import Peers
from node.service_requests import Requests
from node.settings import Settings
from node.shards.service import Shards
from node.state import State
from node.swarm import exchange
from node.swarm.announcements import Book
from node.swarm.announcing import Announcer
from node.swarm.discovery import Discovery
from node.swarm.finding import Finding
from node.swarm.handlers import Handlers
from node.swarm.own import capabilities, own_shards
from node.swarm.readiness import Readiness
from node.swarm.records import select
from node.swarm.serving import Commands
from node.swarm.torrents import Torrents
from node.torrent.messages import PROTOCOL as TRANSFER

LEAVE_S = 2.5
Tap = Callable[[ev.Event, State, State], None]


class Node:
    """One node: build it with settings, await `run`, end it with `stop`."""

    def __init__(self, settings: Settings, door: NodeDoor | None = None) -> None:
        self.settings = settings
        self.door = door or NodeDoor()
        self._stop = trio.Event()
        self._reason = ""

    def emit(self, event: ev.Event) -> None:
        """Tell the door; only from the node's own thread."""
        self.door.emit(event)

    def stop(self, reason: str) -> None:
        """Have `run` leave the swarm and return; from the node's own thread."""
        if not self._stop.is_set():
            self._reason = reason
            self._stop.set()

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`. Raises PlainError when the node cannot start."""
        settings = self.settings
        check_bootstraps(settings.bootstrap)
        identity_file = IdentityFile(settings.identity_path)
        identity = identity_file.acquire(settings.name)
        give_back = quiet.take_over_loggers(self._library_says)
        try:
            self._emit_started(identity)
            async with AsyncExitStack() as stack:
                await self._serve(stack, identity, task_status)
        except BaseExceptionGroup as group:
            raise _first_plain(group) from group
        finally:
            give_back()
            identity_file.release()
            self.emit(ev.NodeStopped(at=time.time()))

    def _emit_started(self, identity: Identity) -> None:
        settings = self.settings
        self.emit(
            ev.NodeStarted(
                at=time.time(),
                peer_id=identity.peer_id,
                name=settings.name,
                role=settings.role,
                cluster=settings.cluster,
                total_shards=settings.total_shards,
                own_shards=settings.shards,
                model_name=settings.model_name,
                transport=settings.transport,
                version=__version__,
                shards_dir=str(settings.shards_dir),
                data_dir=str(settings.node_data_dir),
            )
        )

    def _library_says(self, level: str, logger: str, text: str) -> None:
        # Detail for a bug report, not for the operator: the library warns of harmless things.
        self.door_threadsafe_emit(
            ev.Problem(at=time.time(), level="debug", tag="LIBP2P", sentence=text, detail=logger)
        )

    def door_threadsafe_emit(self, event: ev.Event) -> None:
        """Emit from wherever a library logs: in the trio thread at once, else by its token."""
        try:
            trio.lowlevel.current_trio_token()
        except RuntimeError:
            if self._token is not None:
                try:
                    self._token.run_sync_soon(self.emit, event)
                except trio.RunFinishedError:
                    return
            return
        self.emit(event)

    _token: trio.lowlevel.TrioToken | None = None

    async def _serve(self, stack: AsyncExitStack, identity: Identity, task_status: Any) -> None:
        settings = self.settings
        self._token = trio.lowlevel.current_trio_token()
        host = build_host(identity, settings.transport, stock=settings.stock_transport)
        guard_handlers(host, self._handler_failed)
        announced = await stack.enter_async_context(
            running_host(host, settings.listen, settings.port, settings.transport)
        )
        texts = [f"{item}/p2p/{identity.peer_id}" for item in announced]
        self.emit(ev.NodeListening(at=time.time(), addresses=tuple(texts)))

        peers = Peers(
            host,
            self.emit,
            transport=settings.transport,
            ping_s=settings.ping_s,
            silence_s=settings.silence_s,
        )
        shards = Shards(
            self.emit,
            folder=settings.shards_dir,
            total_shards=settings.total_shards,
            threads=settings.threads or None,
            use_mmap=not settings.no_mmap,
        )
        agent = f"swarmtui/{__version__} {settings.name}"
        book = Book(settings.cluster, verify)
        announcer = Announcer(
            identity,
            book,
            self.emit,
            total_shards=self._total_shards,
            agent=agent,
            republish_s=settings.republish_s,
            capabilities=lambda: capabilities(settings, bool(shards.loaded_ids)),
            addresses=lambda: texts,
            own=lambda: own_shards(self.door.state),
        )
        serves = settings.role == "node"
        discovery = Discovery(
            identity.peer_id,
            peers,
            book,
            self.emit,
            total_shards=self._total_shards,
            requery_s=settings.requery_s,
            announcer=announcer if serves else None,
            agent=agent,
        )
        dht = Dht(
            host,
            peers,
            self.emit,
            check=discovery.check,
            select=select,
            timeout_s=settings.query_timeout_s,
        )
        gossip = Gossip(host, settings.cluster, discovery.accept_gossip, discovery.receive_gossip)
        announcer.attach(dht, gossip)
        discovery.attach(dht, JsonProtocol(host, peers, exchange.PROTOCOL, exchange.MAX_BYTES))
        shards.changed = announcer.changed
        torrents = Torrents(
            settings,
            identity,
            self.door,
            shards,
            peers,
            book,
            BulkStreams(host, peers, TRANSFER),
            total_shards=self._total_shards,
        )
        torrents.on_moved(announcer.changed)
        discovery.on_torrent = torrents.sources.take_record
        discovery.on_welcome = torrents.registering.more_peers
        bootstraps = Bootstraps(
            peers,
            self.emit,
            settings.bootstrap,
            transport=settings.transport,
            redial_s=settings.redial_s,
        )
        peers.watched = lambda: {*discovery.watched(), *bootstraps.ids}
        handlers = Handlers(settings, self.door, shards, book, torrents)
        commands = Commands(
            JsonProtocol(host, peers), identity.peer_id, self.emit, handlers.table()
        )
        torrents.attach(dht, commands, bootstraps)
        cache = PeerCache(peers, settings.peer_cache_path, settings.cluster, self.emit)
        board = MachineBoard(settings.runtime_dir, settings.name, settings.cluster)
        finding = Finding(settings, self.door, peers, cache, board, texts)
        readiness = Readiness(self.door, announcer, settings.republish_s)
        journal = stack.enter_context(Journal(settings.journal_dir, self.emit))
        self.door.tap(journal.record)
        stack.callback(board.remove)
        stack.callback(torrents.close)

        stack.push_async_callback(close_connections, host, LEAVE_S / 4)
        nursery = await stack.enter_async_context(_stoppable_nursery())
        requests = Requests(
            self.door, settings, self.stop, nursery, commands, handlers, peers, torrents
        )
        self.door.serve(requests.take)
        stack.callback(self.door.serve, None)
        nursery.start_soon(peers.run)
        await nursery.start(gossip.run)
        nursery.start_soon(dht.run)
        nursery.start_soon(discovery.run)
        if serves:
            nursery.start_soon(announcer.run)
        nursery.start_soon(readiness.run)
        nursery.start_soon(bootstraps.run)
        nursery.start_soon(cache.run)
        nursery.start_soon(finding.run)
        torrents.start(nursery)
        nursery.start_soon(serve_door, self.door, settings.socket_path, settings.name)
        task_status.started()

        await self._stop.wait()
        self.emit(ev.NodeStopping(at=time.time(), reason=self._reason))
        cache.save()
        with trio.move_on_after(LEAVE_S / 2):
            await announcer.say_goodbye(discovery.tell_everybody)
        with trio.move_on_after(LEAVE_S / 2):
            await shards.close()

    def _total_shards(self) -> int:
        node = self.door.state.node
        return node.total_shards if node is not None else self.settings.total_shards

    def _handler_failed(self, name: str, error: BaseException) -> None:
        self.emit(
            ev.Problem(
                at=time.time(),
                level="debug",
                tag="P2P",
                sentence=f"A stream of a peer broke ({clean(name, 80)}).",
                detail=clean(f"{type(error).__name__}: {error}", 400),
            )
        )


@asynccontextmanager
async def _stoppable_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with the block; within a second even if one hesitates."""
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()


def _first_plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The PlainError inside a group (what the operator should read), else the group itself."""
    found = group.subgroup(PlainError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]  # type: ignore[assignment]
    return found if found is not None else group


def run_headless(
    settings: Settings, on_event: Tap | None = None, door: NodeDoor | None = None
) -> int:
    """Run a node until SIGINT, SIGTERM or SIGHUP, or a stop request; returns the exit code.

    `on_event(event, before, after)` is called in the node's thread. Raises PlainError when the
    node cannot start.
    """
    node = Node(settings, door)
    if on_event is not None:
        node.door.tap(on_event)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, node)
            await node.run()
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        raise _first_plain(group) from group
    return 0


async def _stop_on_signal(node: Node) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        async for number in received:
            node.stop(f"received {signal.Signals(number).name}")


def start_in_thread(settings: Settings) -> NodeDoor:
    """Start a node in a thread of its own and return its door once it listens.

    Blocks for the start (about a second, mostly imports). Raises PlainError when it cannot start.
    The thread ends after a stop request; `NodeStopped` is its last event.
    """
    node = Node(settings)
    started: Future[None] = Future()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            started.set_result(None)

    def thread() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            plain = _first_plain(error) if isinstance(error, BaseExceptionGroup) else error
            if not started.done():
                started.set_exception(plain)
                return
            node.door.serve(None)
            node.door.emit(
                ev.Problem(
                    at=time.time(),
                    level="error",
                    tag="ERROR",
                    sentence="The node stopped because of an error inside it.",
                    next_step="Start it again, and export a bug report with 'e'.",
                    detail=clean(repr(plain), 2000),
                )
            )

    threading.Thread(target=thread, name="node", daemon=True).start()
    started.result()
    return node.door
