"""What a hostile peer might call itself, and events that carry it without having been cleaned.

The node cleans every remote string where it enters; these tests go around that wall to see that
the second one, where the console draws, holds alone.
"""

from __future__ import annotations

import scenario

from node import events as ev

OSC52 = "\x1b]52;c;aGFja2Vk\x1b\\"
TITLE = "\x1b]0;HACKEDTITLE\x07"
REPORT = "\x1b[6n"
EIGHT_BIT = "\x9b6n\x9d0;HACKEDTITLE\x9c"
STRINGS = [
    f"clip{OSC52}board",
    f"title{TITLE}",
    f"where{REPORT}",
    f"c1{EIGHT_BIT}",
    "markup[/foo]",
    "[@click=app.quit]x[/]",
    "[bold red]loud[/bold red] [/ [[",
    "rtl\u202egnp.exe\u2066x\u200b",
    "zalgo" + "\u0301\u0315" * 50,
    "long" + "x" * 10_000,
    "line\r\nbreak\x08\x7f\x00",
    "wide日本語" * 40,
    "\ud800lonely",
]


def hostile_events() -> list[ev.Event]:
    """Every kind of event with remote text in it, every text in every place."""
    found: list[ev.Event] = []
    now = scenario.NOW
    for number, text in enumerate(STRINGS):
        peer = f"{number}{text}"
        found += [
            ev.PeerFound(at=now, peer_id=peer, addresses=(text,), source="mdns"),
            ev.PeerConnected(
                at=now, peer_id=peer, address=text, transport="tcp", direction="inbound"
            ),
            ev.PeerIdentified(at=now, peer_id=peer, agent=text, protocols=(text,)),
            ev.PeerHeard(at=now, peer_id=peer, rtt_ms=1.0, transport="tcp"),
            scenario.discovered(
                number % 4, peer, now, agent=text, model_name=text, addresses=(text,)
            ),
            ev.DhtQueryStarted(
                at=now, query_id=1000 + number, kind="get_value", key=f"/llama-cluster/{text}"
            ),
            ev.DhtQueryFinished(
                at=now, query_id=1000 + number, kind="get_value", key=text, duration_ms=1.0,
                asked=(
                    ev.PeerAnswer(peer_id=peer, duration_ms=1, result="error", detail=text),
                ),
                outcome="failed", detail=text, shard_id=number % 4,
            ),
            ev.TorrentListed(
                at=now, info_hash=f"{number}{text}", filename=text, size=1, peer_id=peer
            ),
            ev.MessageReceived(at=now, peer_id=peer, text=text),
            ev.CommandReceived(
                at=now, request_id=str(number), command=text, peer_id=peer, summary=text
            ),
            ev.MessageRefused(at=now, peer_id=peer, field=text, reason=text),
            ev.RecordRefused(
                at=now, peer_id=peer, key=text, field=text, reason=text, source="dht"
            ),
            ev.PeerDialFailed(
                at=now, peer_id=f"dial{peer}", address=text, transport="tcp", reason=text
            ),
            ev.Problem(
                at=now, level="error", tag=text, sentence=text, next_step=text, detail=text
            ),
            ev.ShardFileMissing(
                at=now, shard_id=3, looked_in=text, sentence=text, next_step=text
            ),
        ]
    return found
