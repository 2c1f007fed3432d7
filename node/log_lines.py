"""What each event reads like in the log, in the mission's words. One function per event type.

Here: how they are registered, and the words for the node and its peers. `node.log_lines_swarm` has
those for DHT, shards, messages and torrents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from node import events as ev
from node.clean import clean
from node.state import State

RULE = "\u2550" * 75
INFO: ev.Level = "info"
DEBUG: ev.Level = "debug"
WARNING: ev.Level = "warning"
ERROR: ev.Level = "error"

Row = tuple[ev.Level, str, str]
"""Level, tag and text of one line."""

E = TypeVar("E", bound=ev.Event)
_WORDS: dict[type[ev.Event], Callable[[Any, State, State], Iterator[Row]]] = {}


def rows(event: ev.Event, before: State, after: State) -> Iterator[Row]:
    """The lines of one event, without the changes of status it caused."""
    words = _WORDS.get(type(event))
    if words is not None:
        yield from words(event, before, after)


def on(
    kind: type[E],
) -> Callable[
    [Callable[[E, State, State], Iterator[Row]]], Callable[[E, State, State], Iterator[Row]]
]:
    """Register the words of one event type."""

    def register(
        words: Callable[[E, State, State], Iterator[Row]],
    ) -> Callable[[E, State, State], Iterator[Row]]:
        _WORDS[kind] = words
        return words

    return register


def peer_words(state: State, peer_id: str) -> str:
    """The peer id in full, with the shards it announces: `12D3… (shard 1 node)`."""
    held = [str(i) for i, shard in sorted(state.shards.items()) if peer_id in shard.holders][:8]
    words = clean(peer_id, 128)
    if held:
        return f"{words} ({'shard' if len(held) == 1 else 'shards'} {', '.join(held)} node)"
    peer = state.peers.get(peer_id)
    return f"{words} (rendezvous node)" if peer is not None and peer.bootstrap else words


# ---------------------------------------------------------------- the node itself


@on(ev.NodeStarted)
def _started(event: ev.NodeStarted, before: State, after: State) -> Iterator[Row]:
    kind = "Rendezvous node" if event.role == "rendezvous" else "Node"
    yield INFO, "SERVER", f"{kind} {event.name}, swarmtui {event.version}"
    yield INFO, "SERVER", f"  Peer ID: {event.peer_id}"
    yield INFO, "SERVER", f"  Cluster: {event.cluster}"
    if event.role == "node":
        held = ", ".join(str(item) for item in event.own_shards) or "none (observer)"
        yield INFO, "SERVER", f"  Shards: {held} of {event.total_shards}"
        yield INFO, "SERVER", f"  Shard files: {clean(event.shards_dir, 400)}"
    yield DEBUG, "SERVER", f"  Data: {clean(event.data_dir, 400)}"


@on(ev.NodeListening)
def _listening(event: ev.NodeListening, before: State, after: State) -> Iterator[Row]:
    for address in event.addresses:
        yield INFO, "LISTEN", f"Listening on {clean(address, 400)}"


@on(ev.NodeAlone)
def _alone(event: ev.NodeAlone, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SWARM", "No other node found: this is a swarm of one."
    yield INFO, "SWARM", f"The next node joins with: {clean(event.join_command, 600)}"


@on(ev.NodeStopping)
def _stopping(event: ev.NodeStopping, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SERVER", f"Leaving the swarm: {clean(event.reason)}"


@on(ev.NodeStopped)
def _stopped(event: ev.NodeStopped, before: State, after: State) -> Iterator[Row]:
    yield INFO, "SERVER", "Stopped"


@on(ev.Problem)
def _problem(event: ev.Problem, before: State, after: State) -> Iterator[Row]:
    sentence = f"{clean(event.sentence, 600)} {clean(event.next_step, 600)}".strip()
    yield event.level, clean(event.tag, 32), sentence
    if event.detail:
        yield DEBUG, clean(event.tag, 32), f"  {clean(event.detail, 900)}"


# ---------------------------------------------------------------- peers


@on(ev.BootstrapConnected)
def _bootstrap(event: ev.BootstrapConnected, before: State, after: State) -> Iterator[Row]:
    yield INFO, "CONNECT", RULE
    yield INFO, "CONNECT", "✓✓✓ CONNECTED TO BOOTSTRAP NODE ✓✓✓"
    yield INFO, "CONNECT", f"  Peer ID: {clean(event.peer_id, 128)}"
    yield INFO, "CONNECT", f"  Address: {clean(event.address, 400)}"


@on(ev.BootstrapLost)
def _bootstrap_lost(event: ev.BootstrapLost, before: State, after: State) -> Iterator[Row]:
    known = before.bootstraps.get(event.address)
    # Said when it is lost; every failed redial after that only for who asks for details.
    news = known is None or known.connected or known.reason != event.reason
    yield (
        WARNING if news else DEBUG,
        "BOOTSTRAP",
        f"Bootstrap node {clean(event.address, 400)} does not answer: {clean(event.reason)}; "
        f"dialled again in {event.retry_in_s:.0f} s",
    )


@on(ev.PeerFound)
def _found(event: ev.PeerFound, before: State, after: State) -> Iterator[Row]:
    where = ", ".join(clean(item, 200) for item in event.addresses[:4])
    yield DEBUG, "DISCOVERY", f"Found peer {clean(event.peer_id, 128)} by {event.source}: {where}"


@on(ev.PeerDialing)
def _dialing(event: ev.PeerDialing, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "DISCOVERY",
        f"📡 Dialing discovered peer {clean(event.peer_id, 128)} "
        f"using {event.transport.upper()} transport",
    )
    yield DEBUG, "DISCOVERY", f"  Address: {clean(event.address, 400)}"


@on(ev.PeerDialFailed)
def _dial_failed(event: ev.PeerDialFailed, before: State, after: State) -> Iterator[Row]:
    again = f"; dialled again in {event.retry_in_s:.0f} s" if event.retry_in_s else ""
    yield (
        INFO,
        "DISCOVERY",
        f"✗ Could not reach peer {clean(event.peer_id, 128)} over {event.transport.upper()}: "
        f"{clean(event.reason)}{again}",
    )


@on(ev.PeerConnected)
def _connected(event: ev.PeerConnected, before: State, after: State) -> Iterator[Row]:
    known = before.peers.get(event.peer_id)
    if known is not None and known.connected:
        yield (
            DEBUG,
            "CONNECT",
            f"Peer {clean(event.peer_id, 128)} is now reached over {event.transport.upper()} too",
        )
        return
    yield INFO, "CONNECT", "✓✓✓ CONNECTED TO PEER ✓✓✓"
    yield INFO, "CONNECT", f"  Peer ID: {peer_words(after, event.peer_id)}"
    yield INFO, "CONNECT", f"  Transport: {event.transport.upper()}"
    yield INFO, "CONNECT", f"  Address: {clean(event.address, 400)}"


@on(ev.PeerDisconnected)
def _disconnected(event: ev.PeerDisconnected, before: State, after: State) -> Iterator[Row]:
    if event.remaining:
        yield (
            DEBUG,
            "DISCONNECT",
            f"Peer {clean(event.peer_id, 128)} closed {event.transport.upper()}; "
            f"{', '.join(event.remaining).upper()} stays open",
        )
    else:
        yield INFO, "DISCONNECT", f"Peer disconnected: {peer_words(before, event.peer_id)}"


@on(ev.PeerIdentified)
def _identified(event: ev.PeerIdentified, before: State, after: State) -> Iterator[Row]:
    yield (
        DEBUG,
        "IDENTIFY",
        f"Peer {clean(event.peer_id, 128)} runs {clean(event.agent, 100)}, "
        f"{len(event.protocols)} protocols",
    )


@on(ev.PeerHeard)
def _heard(event: ev.PeerHeard, before: State, after: State) -> Iterator[Row]:
    trip = "" if event.rtt_ms is None else f" in {event.rtt_ms:.1f} ms"
    yield DEBUG, "P2P", f"Peer {clean(event.peer_id, 128)} answered{trip}"


@on(ev.PeerSilent)
def _silent(event: ev.PeerSilent, before: State, after: State) -> Iterator[Row]:
    since = f"silent for {event.silent_s:.0f} s" if event.silent_s >= 1 else "does not answer"
    who = peer_words(after, event.peer_id)
    yield WARNING, "P2P", f"Peer {since}: {who}: {clean(event.reason)}"


@on(ev.PeerQuarantined)
def _quarantined(event: ev.PeerQuarantined, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "P2P",
        f"Peer {clean(event.peer_id, 128)} is left out of DHT work for "
        f"{max(event.until - event.at, 0):.0f} s: {clean(event.reason)}",
    )


@on(ev.PeerReleased)
def _released(event: ev.PeerReleased, before: State, after: State) -> Iterator[Row]:
    yield INFO, "P2P", f"Peer {clean(event.peer_id, 128)} answers again"


@on(ev.PeerGone)
def _gone(event: ev.PeerGone, before: State, after: State) -> Iterator[Row]:
    yield (
        INFO,
        "DISCONNECT",
        f"Peer left: {peer_words(before, event.peer_id)}: " + clean(event.reason),
    )
