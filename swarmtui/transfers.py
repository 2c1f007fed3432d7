"""Readings of a torrent in words: for the pane, the detail view and the command line.

Imports no terminal library. Every text a peer wrote is cleaned here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from node.clean import clean, short_id
from node.errors import PlainError
from node.state import State, Torrent
from swarmtui.amounts import DASH, plural

PENDING = "?"
"""Begins the key of a wanted file of which nobody has named the size yet."""

HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAMED = re.compile(r"shard-(\d{1,4})\.gguf", re.ASCII)
_CONNECTED = ("active", "idle", "choked", "stalled", "parole")

_WORDS: dict[str, tuple[str, str]] = {
    "hashing": ("hashing", "base"),
    "seeding": ("seeding", "local"),
    "resolving": ("looking", "base"),
    "waiting": ("waiting", "warn"),
    "queued": ("queued", "base"),
    "layer": ("starting", "base"),
    "prealloc": ("allocating", "base"),
    "transfer": ("downloading", "online"),
    "endgame": ("downloading", "online"),
    "stalled": ("stalled", "warn"),
    "paused": ("paused", "warn"),
    "sync": ("finishing", "online"),
    "rename": ("finishing", "online"),
    "done": ("complete", "local"),
    "failed": ("failed", "bad"),
    "cancelled": ("cancelled", "dim"),
}
_PHASES = {
    "resolving": "asking the DHT and the peers who has it",
    "waiting": "nobody offers it yet",
    "queued": "the files before it come first",
    "layer": "fetching the hashes of its pieces",
    "prealloc": "making room on the disk",
    "transfer": "fetching and verifying pieces",
    "endgame": "asking several sources for the last blocks",
    "sync": "making it durable on the disk",
    "rename": "giving the finished file its name",
}


def state_word(item: Torrent) -> tuple[str, str]:
    """One or two words for where a file stands, and the style they are drawn in."""
    if item.phase in _WORDS:
        return _WORDS[item.phase]
    if item.local:
        return "on disk", "local"
    return (plural(len(item.peers), "peer"), "online") if item.peers else (DASH, "dim")


def phase_sentence(item: Torrent) -> str:
    """What a transfer is doing at this moment; empty where the word says it all."""
    return _PHASES.get(item.phase, "")


def share(item: Torrent) -> float | None:
    """How much is hashed or here, 0 to 1; None where there is nothing to measure."""
    if item.phase == "hashing":
        return item.progress
    if item.phase in ("done", "seeding") or (item.local and not item.phase):
        return 1.0
    if item.size > 0 and (item.moving or (item.phase in ("failed", "cancelled") and item.done)):
        return item.done / item.size
    return None


def down_rate(item: Torrent) -> float:
    """Bytes per second that come in; none while paused, though their average lags behind."""
    return 0.0 if item.phase == "paused" else item.rate_down


def time_left(item: Torrent) -> float | None:
    """Seconds until a transfer is done; None while it stands still and where there is none."""
    still = item.phase in ("paused", "stalled", "resolving", "waiting")
    return item.eta_s if item.moving and not still else None


def connected(item: Torrent) -> int:
    """How many sources a transfer has an open stream to."""
    return sum(source.state in _CONNECTED for source in item.sources)


def peers_of(item: Torrent) -> list[str]:
    """Who has the file or a part of it: peers that say so, and the sources of its transfer."""
    return sorted({*item.peers, *(source.peer_id for source in item.sources)})


def sources_words(item: Torrent) -> str:
    """Open sources of those known to a transfer, `2/3`; else how many peers have the file."""
    if item.moving:
        known = len(peers_of(item))
        return f"{connected(item)}/{known}" if known else "0"
    return str(len(item.peers)) if item.peers else DASH


def pieces_words(item: Torrent) -> str:
    """`143/256`; a dash while the number of pieces is unknown."""
    return f"{item.pieces_done}/{item.pieces}" if item.pieces else DASH


def hash_words(item: Torrent) -> str:
    """The info hash; a dash while nobody has named the size it follows from."""
    return DASH if item.info_hash.startswith(PENDING) else clean(item.info_hash, 128)


def trouble(item: Torrent) -> str:
    """Why it stands still or failed, one sentence; empty where it does neither."""
    if item.phase == "paused" and item.reason.lower() in ("paused", "paused."):
        return ""
    return clean(item.reason, 600) if item.reason else ""


def shard_of(item: Torrent) -> int | None:
    """The shard a file holds: told, or read from a name like `shard-3.gguf`."""
    if item.shard_id is not None:
        return item.shard_id
    match = _NAMED.fullmatch(item.filename)
    return int(match.group(1)) if match else None


def pin_of(item: Torrent) -> str:
    """`name@root`, for --pin and `torrent get`; empty while the root is only what a peer says."""
    if not (item.local or item.phase):
        return ""
    name = clean(item.filename, 300)
    if name != item.filename or "@" in name or not HASH.fullmatch(item.root):
        return ""
    return f"{name}@{item.root}"


def offer_parts(offer: str) -> tuple[str, str]:
    """The root of one of two contents, and what is told of it; the root is empty if malformed."""
    root, _, rest = offer.partition(" ")
    return (root, clean(rest, 300)) if HASH.fullmatch(root) else ("", clean(offer, 300))


def wanted_words(item: Torrent) -> str:
    """Who wanted the file; empty where nobody did."""
    return {
        "": "",
        "plan": "the plan: this node is to hold it (--shard)",
        "operator": "the operator",
    }.get(item.wanted_by) or (
        f"peer {short_id(item.wanted_by)}, with LOAD_SHARD" if item.wanted_by else ""
    )


def split_root(what: str) -> tuple[str, str]:
    """`WHAT@ROOT` in its two parts; the root is empty where there is none.

    Raises PlainError for an empty WHAT and for a root that is not 64 hex digits.
    """
    head, at, tail = what.rpartition("@")
    root = ""
    if at and not what.lower().endswith(".gguf"):
        what, root = head, tail.lower()
        if not HASH.fullmatch(root):
            raise PlainError(
                f"'{clean(tail, 80)}' is not a root.", "A root is 64 hex digits after the '@'."
            )
    if not what.strip():
        raise PlainError(
            "No file is named.", "Give a file name, a shard number or an info hash."
        )
    return what, root


def what_of(state: State, item: Torrent) -> str:
    """What a command line calls the file: its name where only one has it, else its info hash."""
    same = sum(other.filename == item.filename for other in state.torrents.values())
    usable = bool(item.filename) and clean(item.filename, 300) == item.filename
    if usable and (same == 1 or item.info_hash.startswith(PENDING)):
        return item.filename
    return clean(item.info_hash, 128)


def ordered(items: Iterable[Torrent]) -> list[Torrent]:
    """Transfers first, then what failed, what is here, and what only others have."""
    return sorted(items, key=rank)


def rank(item: Torrent) -> tuple[int, bool, int, str, str]:
    """What `ordered` sorts by; it does not change with progress, so that rows stay in place."""
    if item.moving:
        group = 0
    elif item.phase == "failed":
        group = 1
    elif item.phase == "hashing":
        group = 2
    else:
        group = 3 if item.local or item.phase in ("seeding", "done") else 4
    shard_id = shard_of(item)
    return group, shard_id is None, shard_id or 0, item.filename, item.info_hash


def of_shard(state: State, shard_id: int) -> Torrent | None:
    """The file of a shard: the one on its way, else the one here, else one that peers have."""
    found = ordered(item for item in state.torrents.values() if shard_of(item) == shard_id)
    return found[0] if found else None
