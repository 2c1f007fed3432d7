"""Finding files: who has what, by the DHT, by the announcements, and by asking.

Three ways lead to the same catalogue of checked manifests: torrent records in the DHT, LIST_FILES
to single peers, and SYNC_TORRENTS to the rendezvous node. Providers of an info hash and of a root
are hints where to ask.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

import msgspec
import trio

from node import events as ev
from node.clean import clean
from node.network.dht import Dht
from node.network.peers import Peers
from node.swarm import keys
from node.swarm.announcements import Book
from node.swarm.records import RecordRefusedError, TorrentRecord, read_record
from node.swarm.serving import REPEATED, Commands
from node.torrent.catalogue import Catalogue
from node.torrent.files import info_hash
from node.torrent.library import Library
from node.torrent.limits import MAX_MANIFEST_BYTES
from node.torrent.manifest import ManifestRefusedError, Verifier

Emit = Callable[[ev.Event], None]
ASK_AGAIN_S = 10.0
ASK_FAILED_AGAIN_S = 60.0
"""Who did not answer waits longer, so that those behind it have their turn."""
ASK_AT_ONCE = 16
ASK_ALL_S = 8.0
ASK_TIMEOUT_S = 5.0
MAX_ANSWERED = 256
MAX_MANIFESTS = 4
MAX_PEERS_NAMED = 16
MAX_ASKED = 1024
MAX_LOOKED_UP = 4

PeerId = Annotated[str, msgspec.Meta(pattern=r"^[1-9A-HJ-NP-Za-km-z]{40,128}\Z")]
RawManifest = Annotated[str, msgspec.Meta(max_length=MAX_MANIFEST_BYTES)]


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a LIST_FILES or SYNC_TORRENTS answer.

    manifests: signed manifests as JSON text; peers: who has it, besides who answers
    """

    info_hash: str
    filename: str
    size: int
    root: str = ""
    here: bool = True
    manifests: Annotated[tuple[RawManifest, ...], msgspec.Meta(max_length=MAX_MANIFESTS)] = ()
    peers: Annotated[tuple[PeerId, ...], msgspec.Meta(max_length=MAX_PEERS_NAMED)] = ()


class Answer(msgspec.Struct, frozen=True):
    """The result of LIST_FILES and SYNC_TORRENTS, as far as it is used."""

    files: Annotated[tuple[FileEntry, ...], msgspec.Meta(max_length=MAX_ANSWERED)] = ()


class Sources:
    """Fills the catalogue and answers from it. Methods run in the node's loop."""

    def __init__(
        self,
        own_id: str,
        cluster: str,
        peers: Peers,
        book: Book,
        catalogue: Catalogue,
        library: Library,
        verify: Verifier,
        emit: Emit,
        manifests: Callable[[str], list[bytes]],
    ) -> None:
        """`manifests(filename)` gives the raw manifests to pass on for a file of this node."""
        self._own_id = own_id
        self._cluster = cluster
        self._peers = peers
        self._book = book
        self.catalogue = catalogue
        self._library = library
        self._verify = verify
        self._emit = emit
        self._manifests = manifests
        self._not_before: dict[str, float] = {}
        self._asking: dict[str, trio.Event] = {}
        self._news = trio.Event()
        self._dht: Dht
        self._commands: Commands

    def attach(self, dht: Dht, commands: Commands) -> None:
        """Give it its two ways of asking; before use."""
        self._dht, self._commands = dht, commands

    # ------------------------------------------------------------ what this node answers

    def listing(self, *, all_known: bool) -> list[dict[str, Any]]:
        """The `files` of an answer: this node's own, or all it knows of (a rendezvous node)."""
        own = [
            FileEntry(
                info_hash=item.file.info_hash,
                filename=item.file.filename,
                size=item.file.size,
                root=item.root,
                manifests=tuple(raw.decode("utf-8") for raw in self._manifests(item.file.filename))[
                    :MAX_MANIFESTS
                ],
            )
            for item in self._library.seeded
        ]
        if all_known:
            own += self._others({(item.info_hash, item.root) for item in own})
        return [msgspec.to_builtins(item) for item in own[:MAX_ANSWERED]]

    def _others(self, own: set[tuple[str, str]]) -> list[FileEntry]:
        found = []
        for key in self.catalogue.files():
            entries = self.catalogue.entries(key)
            for root in sorted({item.manifest.root for item in entries}):
                peers = sorted(self.catalogue.peers_with(key, root) - {self._own_id})
                if (key, root) in own or not peers:
                    continue
                mine = [item for item in entries if item.manifest.root == root]
                found.append(
                    FileEntry(
                        info_hash=key,
                        filename=mine[0].manifest.filename,
                        size=mine[0].manifest.size,
                        root=root,
                        here=False,
                        manifests=tuple(i.raw.decode("utf-8") for i in mine[:MAX_MANIFESTS]),
                        peers=tuple(peers[:MAX_PEERS_NAMED]),
                    )
                )
        return found

    # ------------------------------------------------------------ what others answer

    def take_record(self, record: TorrentRecord) -> None:
        """A checked torrent record of the DHT."""
        if record.peer_id == self._own_id:
            return
        if record.withdrawn:
            place = {(record.info_hash, record.root)}
            mine = self.catalogue.places_of(record.peer_id)
            self._unlisted(record.peer_id, self.catalogue.keep_only(record.peer_id, mine - place))
        elif record.manifest:
            self._take(record.manifest.encode("utf-8"), [record.peer_id], record.peer_id)

    def _take(self, raw: bytes, peers: Iterable[str], from_peer: str) -> tuple[str, str] | None:
        try:
            manifest = self.catalogue.read(raw)
            named = [item for item in peers if item != self._own_id]
            news = self.catalogue.take(raw, named, manifest)
        except ManifestRefusedError as error:
            self._emit(
                ev.RecordRefused(
                    at=time.time(),
                    peer_id=clean(from_peer, 64),
                    key="manifest",
                    field=clean(error.field, 64),
                    reason=clean(error.reason, 200),
                    source="message",
                )
            )
            return None
        if news:
            for peer_id in named:
                self._emit(
                    ev.TorrentListed(
                        at=time.time(),
                        info_hash=manifest.info_hash,
                        filename=clean(manifest.filename, 255),
                        size=manifest.size,
                        peer_id=peer_id,
                        root=manifest.root,
                    )
                )
            self._tell()
        return manifest.info_hash, manifest.root

    def _take_answer(self, result: object, peer_id: str, *, whole: bool) -> int:
        """Enter what a peer listed; how many files. `whole`: it listed all it has."""
        try:
            answer = msgspec.convert(result, Answer)
        except msgspec.ValidationError as error:
            self._emit(
                ev.MessageRefused(
                    at=time.time(), peer_id=peer_id, field="files", reason=clean(error, 200)
                )
            )
            return 0
        here: set[tuple[str, str]] = set()
        for entry in answer.files:
            peers = [*entry.peers, peer_id] if entry.here else list(entry.peers)
            for raw in entry.manifests:
                place = self._take(raw.encode("utf-8"), peers, peer_id)
                if place is not None and entry.here:
                    here.add(place)
        if whole:
            self._unlisted(peer_id, self.catalogue.keep_only(peer_id, here))
        return len(answer.files)

    def _unlisted(self, peer_id: str, keys_gone: list[str]) -> None:
        for key in keys_gone:
            self._emit(ev.TorrentUnlisted(at=time.time(), info_hash=key, peer_id=peer_id))

    def met(self, peer_id: str) -> None:
        """A connection to a peer opened: what it did not answer before it may be asked again."""
        again = self._not_before.get(peer_id)
        if again is not None:
            self._not_before[peer_id] = min(again, trio.current_time() + ASK_AGAIN_S)

    def forget(self, peer_id: str) -> None:
        """A peer said goodbye."""
        self.catalogue.forget(peer_id)
        self._not_before.pop(peer_id, None)

    # ------------------------------------------------------------ news

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def tell(self) -> None:
        """Something outside changed that may help to find a file (a peer, an announcement)."""
        self._tell()

    async def news(self, timeout: float) -> None:
        """Wait until something new is known, at most `timeout` seconds."""
        with trio.move_on_after(timeout):
            await self._news.wait()

    # ------------------------------------------------------------ asking

    async def sync(self, peer_id: str, total_shards: int, *, again: bool) -> int | None:
        """SYNC_TORRENTS: how many files the peer knows of; None when it did not answer.

        `again`: a repetition, which the log does not tell of.
        """
        answer = await self._commands.send(
            peer_id,
            "SYNC_TORRENTS",
            {"total_shards": total_shards},
            origin=REPEATED if again else "node",
            timeout=ASK_TIMEOUT_S,
            raw_result=True,
        )
        if answer.get("status") != "success":
            return None
        return self._take_answer(answer.get("raw"), peer_id, whole=False)

    async def ask(self, peer_id: str) -> None:
        """LIST_FILES to one peer, unless it was asked a moment ago."""
        running = self._asking.get(peer_id)
        if running is not None:
            await running.wait()
            return
        now = trio.current_time()
        if now < self._not_before.get(peer_id, now):
            return
        if len(self._not_before) >= MAX_ASKED:
            self._not_before.clear()
        self._not_before[peer_id] = now + ASK_FAILED_AGAIN_S
        done = self._asking[peer_id] = trio.Event()
        try:
            if not self._peers.is_connected(peer_id) and not await self._peers.connect(peer_id):
                return
            answer = await self._commands.send(
                peer_id, "LIST_FILES", {}, timeout=ASK_TIMEOUT_S, raw_result=True
            )
            if answer.get("status") == "success":
                self._not_before[peer_id] = now + ASK_AGAIN_S
                self._take_answer(answer.get("raw"), peer_id, whole=True)
        finally:
            del self._asking[peer_id]
            done.set()

    async def ask_all(self, peer_ids: Iterable[str]) -> None:
        """LIST_FILES to several peers, the connected ones first, some at a time.

        Who is not heard in ASK_ALL_S is left for the next time: any number of peers can be
        invented that do not answer, and each would cost its own deadline.
        """
        wanted = [item for item in dict.fromkeys(peer_ids) if item != self._own_id]
        left = iter(sorted(wanted, key=lambda item: not self._peers.is_connected(item)))

        async def some() -> None:
            for peer_id in left:
                await self.ask(peer_id)

        with trio.move_on_after(ASK_ALL_S):
            async with trio.open_nursery() as nursery:
                for _ in range(min(ASK_AT_ONCE, len(wanted))):
                    nursery.start_soon(some)

    # ------------------------------------------------------------ looking for one file

    async def look_for(self, filename: str, shard_id: int | None) -> list[str]:
        """Use every way to learn who has a file of this name; its info hashes on offer."""
        known = set(self.catalogue.named(filename))
        if shard_id is not None:
            holders = [item.record for item in self._book.of_shard(shard_id)]
            # A holder's size and the file's usual name give the key to look under.
            known |= {info_hash(filename, item.size) for item in holders if item.size}
            await self.ask_all([item.peer_id for item in holders])
        if not known:
            await self.ask_all(self._peers.connected_ids()[:MAX_PEERS_NAMED])
        # Every content on offer must be seen before one is accepted on first use.
        for key in sorted(known | set(self.catalogue.named(filename)))[:MAX_LOOKED_UP]:
            await self.look_up(key)
        return self.catalogue.named(filename)

    async def look_up(self, key: str) -> None:
        """Record and providers of an info hash in the DHT, and what those say they have."""
        dht_key = keys.torrent_key(self._cluster, key)
        authors: list[str] = []
        named: list[str] = []

        async def records() -> None:
            for raw in await self._dht.get(dht_key):
                try:
                    record = read_record(dht_key, raw, self._verify)
                except RecordRefusedError:
                    continue  # refused, and told of, when it came
                if isinstance(record, TorrentRecord) and not record.withdrawn:
                    self.take_record(record)
                    authors.append(record.peer_id)

        async def providers() -> None:
            named.extend(await self._dht.find_providers(dht_key))

        await _both(records, providers)
        await self.ask_all(authors + named)

    async def seeders(self, key: str, root: str) -> set[str]:
        """Who serves this content: from the catalogue, and the providers of its root."""
        providers = await self._dht.find_providers(keys.root_key(self._cluster, root))
        found = self.catalogue.peers_with(key, root) | set(providers)
        found.discard(self._own_id)
        return found


async def _both(one: Callable[[], Awaitable[None]], two: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(two)
