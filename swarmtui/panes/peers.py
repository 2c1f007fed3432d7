"""Peers: who is there, who answers, over what, and what they hold."""

from __future__ import annotations

from math import inf

from node.state import Peer
from swarmtui.panes.pane import Pane
from swarmtui.panes.view import View, carried_over, held_by, peer_state
from swarmtui.widgets.table import Column, Row
from swarmtui.widgets.text import DASH, milliseconds, names, peer_name, printable

_RANK = {"answering": 0, "connected": 1, "dialling": 2, "silent": 3, "quarantine": 4}


class PeersPane(Pane):
    NUMBER = 2
    NAME = "Peers"
    KIND = "peer"
    COLUMNS = (
        Column("PEER", 9),
        Column("STATE", 14),
        Column("OVER", 10, drop=2),
        Column("RTT", 6, "right"),
        Column("SHARDS", 6, grow=1, most=24),
        Column("HEARD", 5, "right", drop=1),
        Column("NODE", 10, drop=3, grow=2, most=40),
    )

    def build(self, view: View) -> list[Row]:
        rows = []
        for peer in view.state.peers.values():
            word, style = peer_state(view, peer)
            held = names(held_by(view.state, peer.peer_id)) or DASH
            over = carried_over(peer)
            label = _agent(peer)
            rank = _RANK.get(word.split()[0], 5)
            rows.append(
                Row(
                    key=peer.peer_id,
                    cells=(
                        (peer_name(peer.peer_id), "strong"),
                        (word, style),
                        (over, "base"),
                        (milliseconds(peer.rtt_ms if peer.answering else None), "base"),
                        (held, "base"),
                        (view.ages.ago(peer.heard_at), "dim"),
                        (label, "dim"),
                    ),
                    order=(
                        peer_name(peer.peer_id),
                        rank,
                        over,
                        peer.rtt_ms if peer.rtt_ms is not None else inf,
                        held,
                        -peer.heard_at,
                        label,
                    ),
                    rank=(rank, peer.peer_id),
                )
            )
        return rows

    def counts(self, view: View, rows: list[Row]) -> str:
        answer = sum(peer.answering for peer in view.state.peers.values())
        return f"{answer} of {len(rows)} answer" if rows else "none"

    def hint(self, view: View) -> tuple[str, ...]:
        node = view.state.node
        if node is not None and node.join_command:
            return (
                "This node is a swarm of one.",
                "The next node joins with (c copies it):",
                printable(node.join_command, 512),
            )
        return (
            "No peer has been found yet.",
            "Nodes on this network appear by themselves; others with --bootstrap ADDRESS.",
        )


def _agent(peer: Peer) -> str:
    program, _, name = printable(peer.agent, 64).partition(" ")
    label = f"{name} {program}".strip()  # the node's own name tells more, so it comes first
    return f"{label} (bootstrap)".strip() if peer.bootstrap else label or DASH
