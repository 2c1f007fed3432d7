"""Who sent what was wrong: strikes, parole, and bans with a reason that a person can read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from node.clean import clean
from node.torrent import merkle
from node.torrent.limits import BAN_S, BLOCK_BYTES, LEAF_BYTES
from node.torrent.merkle import Buffer
from node.torrent.sizes import Block

MAX_STRIKES = 3
"""Broken rules of the protocol after which a peer is not asked for this file again."""
BAD_FILES = 2
BAD_PIECES = 3
"""Wrong pieces, or files with one, after which a peer is banned for BAN_S from everything."""


class BannedError(Exception):
    """The peer is not asked for this file any more; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is held against a peer: certain, or one suspect of several; `reason` is a sentence."""

    peer_id: str
    piece: int
    leaves: tuple[int, ...]
    reason: str


def name_of(peer_id: str) -> str:
    """A peer id, short and fit for the screen."""
    text = clean(peer_id, 80)
    return text if len(text) <= 16 else f"…{text[-12:]}"


def verdicts(
    piece: int, data: Buffer, leaves: bytes, senders: Mapping[str, Iterable[Block]]
) -> tuple[list[Verdict], list[Block]]:
    """Who sent which wrong 16 KiB leaves of a failed piece, and the blocks that hold them.

    `data` are the bytes received, `leaves` the piece's proven leaves (padding at the end allowed),
    `senders` says which blocks came from whom.
    """
    wrong = merkle.bad_leaves(data, leaves)
    found: list[Verdict] = []
    bad_blocks: list[Block] = []
    for peer_id, blocks in senders.items():
        own: list[int] = []
        for block in blocks:
            first = block.offset // LEAF_BYTES
            last = (block.offset + block.length - 1) // LEAF_BYTES
            hit = [leaf for leaf in wrong if first <= leaf <= last]
            if hit:
                own.extend(hit)
                bad_blocks.append(block)
        if own:
            found.append(Verdict(peer_id, piece, tuple(own), _sentence(peer_id, piece, own)))
    return found, bad_blocks


def certain(piece: int, peer_id: str) -> Verdict:
    """A piece that came from one peer alone is wrong."""
    return Verdict(
        peer_id,
        piece,
        (),
        f"{name_of(peer_id)} sent piece {piece} with wrong bytes and nobody else had a part in it.",
    )


def _sentence(peer_id: str, piece: int, leaves: list[int]) -> str:
    shown = ", ".join(
        f"leaf {leaf} (block {leaf * LEAF_BYTES // BLOCK_BYTES})" for leaf in leaves[:3]
    )
    more = f" and {len(leaves) - 3} more" if len(leaves) > 3 else ""
    return f"{name_of(peer_id)} sent wrong bytes in piece {piece}: {shown}{more}."


@dataclass(slots=True)
class _Record:
    pieces: dict[bytes, set[int]] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    strikes: dict[bytes, int] = field(default_factory=dict)
    until: float = 0.0
    reason: str = ""


class Bans:
    """What all downloads of this node hold against peers, by peer id (an address may be shared).

    Memory is bounded by `limit` peers; the ones longest untouched are forgotten first.
    """

    def __init__(self, clock: Callable[[], float], limit: int = 4096) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._limit = limit
        self._records: dict[str, _Record] = {}

    def banned(self, peer_id: str, root: bytes) -> str:
        """Why this peer is not asked for this file; empty when it may be."""
        record = self._records.get(peer_id)
        if record is None:
            return ""
        if record.until > self._clock():
            return record.reason
        return record.refused.get(root, "")

    def strikes(self, peer_id: str, root: bytes) -> int:
        """Broken rules so far."""
        record = self._records.get(peer_id)
        return record.strikes.get(root, 0) if record else 0

    def wrong_piece(self, verdict: Verdict, root: bytes) -> str:
        """A certain verdict: banned from this file now, from all for a day when it goes on."""
        record = self._record(verdict.peer_id)
        record.pieces.setdefault(root, set()).add(verdict.piece)
        record.refused[root] = verdict.reason
        pieces = sum(len(found) for found in record.pieces.values())
        if len(record.pieces) >= BAD_FILES or pieces >= BAD_PIECES:
            record.until = self._clock() + BAN_S
            record.reason = (
                f"{verdict.reason} With {pieces} wrong pieces in {len(record.pieces)} files it is"
                " not asked for anything for 24 hours."
            )
        return verdict.reason

    def strike(self, peer_id: str, root: bytes, what: str) -> int:
        """A broken rule (`what` as in "it sent …"); the strikes so far, MAX_STRIKES is a ban."""
        record = self._record(peer_id)
        count = record.strikes[root] = record.strikes.get(root, 0) + 1
        if count >= MAX_STRIKES:
            record.refused[root] = (
                f"{name_of(peer_id)} broke the protocol {count} times, last: {clean(what, 120)}."
            )
        return count

    def bad_proof(self, peer_id: str, root: bytes, what: str) -> str:
        """Hashes that do not lead to the root cannot be an accident: banned from this file."""
        reason = f"{name_of(peer_id)} sent {what} that do not lead to the file's root."
        self._record(peer_id).refused[root] = reason
        return reason

    def _record(self, peer_id: str) -> _Record:
        record = self._records.pop(peer_id, None) or _Record()
        self._records[peer_id] = record
        while len(self._records) > self._limit:
            # One that is banned now stays, or a flood of new names would free it.
            now = self._clock()
            old = next(
                (name for name, item in self._records.items() if item.until <= now),
                next(iter(self._records)),
            )
            del self._records[old]
        return record
