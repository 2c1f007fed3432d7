"""The book of announcements: the newest verified word of every holder, and this node's own."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from node.settings_values import MAX_SHARDS_PER_NODE
from node.swarm import keys
from node.swarm.records import (
    MAX_AGE_S,
    MAX_RECORD_BYTES,
    Announcement,
    RecordRefusedError,
    Verifier,
    check_age,
    field_of,
    read_record,
)

MAX_ENTRIES = 4096
MAX_PER_PEER = MAX_SHARDS_PER_NODE
MAX_READ = 512


class Entry(NamedTuple):
    """A verified announcement and the exact bytes its author signed."""

    record: Announcement
    raw: bytes

    @property
    def expires_at(self) -> float:
        return self.record.timestamp + MAX_AGE_S


class Book:
    """Announcements of one cluster by (shard id, peer id). Only verified ones come in.

    A full book makes room fairly, because anybody can invent identities: an entry of the author of
    the lowest standing goes, of several the one with the most entries, for a newcomer of a higher
    standing, or of the same one with at least two entries fewer. So a flood of strangers can
    neither push out nor lock out who is known here, and strangers share what is left.

    standing: of an author, higher is better: this node itself, peers it met, strangers.
    on_evicted: told of an entry that had to go.
    """

    def __init__(
        self, cluster: str, verify: Verifier, clock: Callable[[], float] = time.time
    ) -> None:
        self.cluster = cluster
        self._verify = verify
        self._clock = clock
        self.standing: Callable[[str], int] = lambda peer_id: 0
        self.on_evicted: Callable[[Entry], None] = lambda entry: None
        self._entries: dict[tuple[int, str], Entry] = {}
        self._count: Counter[str] = Counter()
        self._read: OrderedDict[bytes, Announcement] = OrderedDict()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, shard_id: int, peer_id: str) -> Entry | None:
        return self._entries.get((shard_id, peer_id))

    def of_shard(self, shard_id: int) -> list[Entry]:
        """Every holder's entry for one shard."""
        return [item for (shard, _), item in self._entries.items() if shard == shard_id]

    def of_peer(self, peer_id: str) -> list[Entry]:
        """Every entry of one peer."""
        return [item for (_, peer), item in self._entries.items() if peer == peer_id]

    def sequences(self) -> dict[str, int]:
        """What this book has, as `shard/peer` -> sequence: the digest sent to others."""
        return {
            f"{shard}/{peer}": item.record.sequence for (shard, peer), item in self._entries.items()
        }

    def read(self, raw: bytes) -> Announcement:
        """Check the bytes of an announcement of this cluster; RecordRefusedError if refused."""
        known = self._read.get(raw)
        if known is not None:
            # The same bytes come from many sides, and a signature stays right; only time goes on.
            check_age(known.timestamp, self._clock())
            return known
        shard_id, peer_id = _peek(raw)
        record = read_record(
            keys.holder_key(self.cluster, shard_id, peer_id), raw, self._verify, now=self._clock()
        )
        assert isinstance(record, Announcement)
        self._read[raw] = record
        while len(self._read) > MAX_READ:
            self._read.popitem(last=False)
        return record

    def add(self, raw: bytes, record: Announcement | None = None) -> Announcement | None:
        """Enter an announcement; None when it is no news (known, or older than what is known).

        Raises RecordRefusedError when it is not to be believed.
        """
        record = record or self.read(raw)
        key = (record.shard_id, record.peer_id)
        known = self._entries.get(key)
        if known is not None and known.record.sequence >= record.sequence:
            return None
        if known is None:
            if self._count[record.peer_id] >= MAX_PER_PEER:
                raise RecordRefusedError("record", "too many shards announced by one peer")
            if len(self._entries) >= MAX_ENTRIES and not self._make_room(record.peer_id):
                raise RecordRefusedError("record", "the book is full")
            self._count[record.peer_id] += 1
        self._entries[key] = Entry(record, raw)
        return record

    def _make_room(self, newcomer: str) -> bool:
        """Take out the entry that has the least claim, if that is less than the newcomer's."""
        own = self.standing(newcomer)
        fewer = self._count[newcomer] + 1
        if own <= 0 and max(self._count.values()) <= fewer:
            return False  # a flood of strangers: not worth a look at every author
        lowest, most, author = min(
            (self.standing(peer_id), -count, peer_id) for peer_id, count in self._count.items()
        )
        if not (lowest < own or (lowest == own and -most > fewer)):
            return False
        victim = min(self.of_peer(author), key=lambda item: item.record.timestamp)
        self.drop(victim.record.shard_id, author)
        self.on_evicted(victim)
        return True

    def drop(self, shard_id: int, peer_id: str) -> Entry | None:
        """Take an entry out."""
        entry = self._entries.pop((shard_id, peer_id), None)
        if entry is not None:
            self._count[peer_id] -= 1
            if not self._count[peer_id]:
                del self._count[peer_id]
        return entry

    def expired(self) -> list[Entry]:
        """Entries past their time."""
        now = self._clock()
        return [item for item in self._entries.values() if item.expires_at < now]

    def newer_than(self, have: dict[str, int], limit: int) -> list[bytes]:
        """The raw announcements that someone with the digest `have` lacks."""
        now = self._clock()
        return [
            item.raw
            for (shard, peer), item in self._entries.items()
            if have.get(f"{shard}/{peer}", -1) < item.record.sequence and item.expires_at > now
        ][:limit]


class _Claim(msgspec.Struct):
    shard_id: int
    peer_id: str


def _peek(raw: bytes) -> tuple[int, str]:
    """Which key the bytes claim to be for; the claim is checked by `read_record`."""
    if len(raw) > MAX_RECORD_BYTES:
        raise RecordRefusedError("size", f"{len(raw)} bytes, {MAX_RECORD_BYTES} are allowed")
    try:
        claim = msgspec.json.decode(raw, type=_Claim)
    except msgspec.ValidationError as error:
        raise RecordRefusedError(field_of(error), "missing or of the wrong type") from error
    except RecursionError as error:
        raise RecordRefusedError("record", "nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordRefusedError("record", "not JSON") from error
    return claim.shard_id, claim.peer_id
