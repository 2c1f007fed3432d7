"""After a bad piece with several senders: its leaves, proven, and who sent the wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from node.torrent import merkle
from node.torrent.limits import HASH_BYTES, LEAF_BYTES, MAX_HASHES
from node.torrent.messages import HashRequest
from node.torrent.sizes import Block, Layout
from node.torrent.transfer.blame import Verdict, verdicts
from node.torrent.transfer.buffers import Arriving
from node.torrent.transfer.guarding import RunSync
from node.torrent.transfer.peer_session import PeerSession


@dataclass(frozen=True, slots=True)
class Findings:
    """Certain verdicts and the blocks to fetch again; both empty when no leaves could be had."""

    verdicts: list[Verdict] = field(default_factory=list)
    bad_blocks: list[Block] = field(default_factory=list)


def leaf_requests(layout: Layout, piece: int) -> list[HashRequest]:
    """The requests for the leaves of one piece, each with its proof up to the piece."""
    leaves = 1 << layout.piece_layer
    count = min(MAX_HASHES, leaves)
    first = piece * leaves
    own = -(-layout.piece_size(piece) // LEAF_BYTES)
    proof = max(0, layout.piece_layer - 1)
    return [HashRequest(0, first + start, count, proof) for start in range(0, own, count)]


class Inquiry:
    """One bad piece. `asked` are the peers that were asked for its leaves."""

    def __init__(
        self,
        layer: bytes,
        layout: Layout,
        piece: Arriving,
        senders: dict[str, list[Block]],
        run_sync: RunSync,
    ) -> None:
        self.piece = piece
        self.senders = senders
        self.asked: set[str] = set()
        self._layout = layout
        self._top = merkle.node_at(layer, piece.piece)
        self._run_sync = run_sync

    async def run(
        self,
        ask_next: Callable[[Inquiry], PeerSession | None],
        liar: Callable[[PeerSession, str], None],
    ) -> Findings:
        """Ask one peer after the other until the leaves are proven."""
        while (session := ask_next(self)) is not None:
            self.asked.add(session.peer_id)
            leaves = await self._leaves(session, liar)
            if leaves is not None:
                found, blocks = await self._run_sync(
                    verdicts, self.piece.piece, self.piece.data, leaves, self.senders
                )
                return Findings(found, blocks)
        return Findings()

    async def _leaves(
        self, session: PeerSession, liar: Callable[[PeerSession, str], None]
    ) -> bytes | None:
        parts = []
        for request in leaf_requests(self._layout, self.piece.piece):
            answer = await session.hashes(request)
            if answer is None:
                return None
            if not merkle.range_matches(
                0,
                request.index,
                request.count,
                request.proof,
                answer.nodes,
                answer.uncles,
                self._top,
            ):
                liar(session, "leaf hashes")
                return None
            parts.append(answer.nodes)
        joined = b"".join(parts)
        own = -(-self._layout.piece_size(self.piece.piece) // LEAF_BYTES)
        return joined[: own * HASH_BYTES]
