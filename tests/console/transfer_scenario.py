"""A recorded scenario: files on their way in every state, told by events with fixed times."""

from __future__ import annotations

import hashlib

import scenario

from node import events as ev
from node.door import NodeDoor

MIB = 2**20
GIB = 2**30
PIECE = 4 * MIB
ROOT = "5f" * 32
ROOTS = ("0a" * 32, "b1" * 32)
OFFERS = tuple(
    f"{root} size {3 * GIB}, {count} seeder(s), published by {scenario.BOB}, 40 s ago"
    for count, root in ((2, ROOTS[0]), (1, ROOTS[1]))
)


def info_hash(filename: str, size: int) -> str:
    """The info hash of a file of this name and size."""
    return hashlib.sha256(filename.encode("utf-8") + size.to_bytes(8, "little")).hexdigest()


def wanted(filename: str, size: int, shard_id: int | None, by: str = "plan") -> ev.TransferWanted:
    return ev.TransferWanted(
        at=scenario.NOW - 60, filename=filename, shard_id=shard_id, wanted_by=by,
        info_hash=info_hash(filename, size),
    )


def changed(filename: str, size: int, phase: str, share: float, **more: object) -> ev.Event:
    """A transfer in `phase` with `share` of its pieces here."""
    pieces = -(-size // PIECE)
    have = int(pieces * share)
    cells = min(pieces, 256)
    full = int(cells * share)
    values: dict[str, object] = {
        "root": ROOT,
        "done": have * PIECE,
        "fetched": have * PIECE,
        "pieces": pieces,
        "pieces_done": have,
        "piece_length": PIECE,
        "elapsed_s": 12.0,
        "piece_map": ("8" * full + "62" + "0" * cells)[:cells],
        **more,
    }
    return ev.TransferChanged(
        at=scenario.NOW - 1, info_hash=info_hash(filename, size), filename=filename, size=size,
        phase=phase, **values,  # type: ignore[arg-type]
    )


SOURCES = (
    ev.SourceRow(
        peer_id=scenario.BOB, state="active", have=256, rate=60.4 * MIB, received=300 * MIB,
        window=4 * MIB, in_flight=3 * MIB,
    ),
    ev.SourceRow(
        peer_id=scenario.CARA, state="parole", reason="A piece it had a part in was wrong.",
        have=200, rate=33.8 * MIB, received=180 * MIB, window=MIB, in_flight=MIB, strikes=1,
    ),
    ev.SourceRow(
        peer_id=scenario.DORA, state="banned", reason="It sent wrong data twice.", strikes=3
    ),
)


def transfers() -> list[ev.Event]:
    """One file in each state, and a recorded swarm around them."""
    now = scenario.NOW
    return [
        ev.TorrentSeeded(
            at=scenario.T0 + 1, info_hash=scenario.HASH, filename="shard-0.gguf", size=2 * GIB,
            shard_id=0, root="c4" * 32, piece_length=PIECE, pieces=512,
        ),
        ev.TorrentRegistered(
            at=now - 130, info_hash=scenario.HASH, filename="shard-0.gguf", stored_at=3
        ),
        ev.SeedingChanged(
            at=now - 1, info_hash=scenario.HASH, uploaded=5 * GIB, rate_up=12.3 * MIB,
            peers=(scenario.BOB, scenario.CARA),
        ),
        wanted("shard-1.gguf", GIB, 1),
        changed(
            "shard-1.gguf", GIB, "transfer", 0.47, shard_id=1, sources=SOURCES, wasted=PIECE,
            rate_down=94.2 * MIB, rate_up=1.5 * MIB, uploaded=128 * MIB, eta_s=5.8,
        ),
        ev.TransferSourceBlamed(
            at=now - 2, info_hash=info_hash("shard-1.gguf", GIB), filename="shard-1.gguf",
            peer_id=scenario.DORA, piece=17,
            reason="12D3…Dor4 sent a wrong leaf 3 of piece 17 of shard-1.gguf.",
        ),
        wanted("shard-2.gguf", 2 * GIB, 2, scenario.BOB),
        changed(
            "shard-2.gguf", 2 * GIB, "stalled", 0.8, shard_id=2,
            reason="No source is connected: 12D3…Dor4 does not answer.",
        ),
        wanted("shard-3.gguf", GIB, 3, "operator"),
        changed("shard-3.gguf", GIB, "paused", 0.25, shard_id=3, reason="Paused."),
        ev.TransferWanted(
            at=now - 8, filename="model-q4.gguf", shard_id=None, wanted_by="operator"
        ),
        ev.TransferFailed(
            at=now - 5, info_hash="", filename="model-q4.gguf", shard_id=None,
            sentence=(
                "model-q4.gguf is offered with different contents: "
                f"{ROOTS[0][:16]}… (2 seeders), {ROOTS[1][:16]}… (1 seeders)."
            ),
            next_step="Say which one is right with model-q4.gguf@ROOT.",
            offers=OFFERS,
        ),
        ev.TorrentHashing(
            at=now - 1, info_hash=info_hash("draft.gguf", 700 * MIB), filename="draft.gguf",
            size=700 * MIB, shard_id=None, progress=0.4,
        ),
        ev.TorrentListed(
            at=now - 9, info_hash=info_hash("shard-7.gguf", GIB), filename="shard-7.gguf",
            size=GIB, peer_id=scenario.BOB, root="77" * 32,
        ),
        ev.TorrentListed(
            at=now - 8, info_hash=info_hash("shard-7.gguf", GIB), filename="shard-7.gguf",
            size=GIB, peer_id=scenario.CARA, root="77" * 32,
        ),
        ev.TransferWanted(
            at=now - 3, filename="shard-9.gguf", shard_id=9, wanted_by="operator"
        ),
        ev.TorrentListed(
            at=now - 7, info_hash="ee" * 32, filename="a\x1b]0;HACKED\x07[bold]\u202e日本.gguf",
            size=12_345, peer_id=scenario.DORA,
        ),
    ]


def transfer_door() -> NodeDoor:
    """A door after the recorded swarm and all its transfers."""
    door = NodeDoor()
    for event in (*scenario.recorded(), *transfers()):
        door.emit(event)
    return door
