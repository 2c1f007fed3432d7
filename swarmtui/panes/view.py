"""What a pane is given to draw from, and the readings several panes share."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from node.state import Holder, Peer, Shard, State
from swarmtui import transfers
from swarmtui.amounts import percent
from swarmtui.widgets.text import DASH, Ages, Span, printable

STATUS_WORDS = {"LOCAL": "★ LOCAL", "ONLINE": "✓ ONLINE", "OFFLINE": "✗ OFFLINE"}
STATUS_STYLES = {"LOCAL": "local", "ONLINE": "online", "OFFLINE": "offline"}
STATUS_RANK = {"OFFLINE": 0, "LOCAL": 1, "ONLINE": 2}


@dataclass(frozen=True)
class View:
    """One moment: the state and the ages read at it.

    waiting: a word while there is no node yet; lost: why the door to it no longer answers.
    """

    state: State
    ages: Ages
    waiting: str = ""
    lost: str = ""

    @property
    def now(self) -> float:
        return self.ages.now


def answering(state: State, shard: Shard) -> list[tuple[Holder, Peer]]:
    """The holders that have the shard loaded and answer, the nearest first."""
    found = [
        (holder, state.peers[holder.peer_id])
        for holder in shard.holders.values()
        if state.holder_answers(holder)
    ]
    return sorted(found, key=lambda pair: (pair[1].rtt_ms or inf, pair[0].peer_id))


def shard_size(shard: Shard) -> int:
    """The size of the shard's file in bytes, from this node or any holder; 0 when unknown."""
    return shard.local.size or max((item.size for item in shard.holders.values()), default=0)


def shard_layers(shard: Shard) -> tuple[int, int]:
    """The layer range [start, end), from this node or the newest announcement."""
    if shard.local.layer_end:
        return shard.local.layer_start, shard.local.layer_end
    newest = max(shard.holders.values(), key=lambda item: item.updated_at, default=None)
    return (newest.layer_start, newest.layer_end) if newest else (0, 0)


def held_by(state: State, peer_id: str) -> list[int]:
    """The shards a peer announces as loaded."""
    return [
        shard.shard_id
        for shard in state.shards.values()
        if (holder := shard.holders.get(peer_id)) is not None and holder.loaded
    ]


def why(view: View, shard_id: int) -> str:
    """`State.why` with its seconds in coarse steps."""
    state = view.state
    shard = state.shards.get(shard_id)
    now = view.now
    if shard is not None and shard.local.phase == "downloading":
        item = transfers.of_shard(state, shard_id)
        stands = item is not None and item.phase in ("paused", "stalled", "waiting", "failed")
        word = item.phase if item is not None and stands else "download"
        return f"{word} {percent(shard.local.progress)}"
    if shard is not None and state.status_of(shard_id) == "OFFLINE":
        heard = max(
            (
                state.peers[item.peer_id].heard_at
                for item in shard.holders.values()
                if item.loaded and item.peer_id in state.peers
            ),
            default=0.0,
        )
        now = view.ages.at(heard)
    return printable(state.why(shard_id, now), 64)


def peer_state(view: View, peer: Peer) -> Span:
    """A peer's state in words, with its style."""
    if peer.quarantined_until > view.now:
        return f"quarantine {view.ages.left(peer.quarantined_until)}", "warn"
    if peer.silent:
        heard = f" {view.ages.seconds(peer.heard_at)} s" if peer.heard_at else ""
        return f"silent{heard}", "bad"
    if peer.answering:
        return "answering", "good"
    if peer.note.startswith("dialling"):
        return "dialling", "dim"
    if peer.connected:
        return "connected", "base"
    return ("dial failed", "warn") if peer.note.startswith("dial failed") else ("known", "dim")


def carried_over(peer: Peer) -> str:
    """The transport that messages go over; others that are open, in brackets: `tcp (quic)`."""
    first = peer.carries if peer.carries in peer.transports else next(iter(peer.transports), "")
    rest = [item for item in peer.transports if item != first]
    return f"{first} ({', '.join(rest)})" if rest else first or DASH


def rates(view: View) -> tuple[float, float]:
    """Bytes per second that come in and go out, of all files together."""
    items = view.state.torrents.values()
    return sum(transfers.down_rate(item) for item in items), sum(item.rate_up for item in items)
