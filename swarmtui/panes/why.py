"""Why: everything known about the selected item, and the next step."""

from __future__ import annotations

from collections.abc import Sequence

from node.errors import PlainError
from node.state import Query, Shard
from swarmtui.panes.queries import short_key
from swarmtui.panes.view import (
    STATUS_STYLES,
    STATUS_WORDS,
    View,
    answering,
    carried_over,
    held_by,
    peer_state,
    shard_layers,
    shard_size,
    why,
)
from swarmtui.widgets.ring_log import clock
from swarmtui.widgets.text import (
    DASH,
    Line,
    layers,
    milliseconds,
    names,
    peer_name,
    printable,
    size,
)

BLANK: Line = ()
RECENT = 6


def explain(view: View, kind: str, key: str) -> list[Line]:
    """The lines about one item; kinds are shard, peer, query and torrent."""
    reader = {"shard": _shard, "peer": _peer, "query": _query, "torrent": _torrent}.get(kind)
    return reader(view, key) if reader is not None and key else [_note("Nothing is selected.")]


def name_of(kind: str, key: str) -> str:
    """What the item is called in a title."""
    if kind == "peer":
        return f"peer {peer_name(key)}"
    if kind == "torrent":
        return f"torrent {printable(key, 128)[:8]}"
    return f"{kind} {printable(key, 32)}"


def _field(name: str, value: str, style: str = "base") -> Line:
    return ((f"{name:<10}", "dim"), (value or DASH, style))


def _head(text: str) -> Line:
    return ((text, "title"),)


def _note(text: str) -> Line:
    return ((text, "dim"),)


def _step(text: str) -> Line:
    return (("→ ", "key"), (text, "base"))


def problem_lines(view: View, more: Sequence[PlainError] = ()) -> list[Line]:
    """The problems the node told of, newest first, and those of the console itself."""
    lines: list[Line] = []
    for error in more:
        lines += [((error.sentence, "warn"),), _step(error.next_step), BLANK]
    for item in view.state.problems:
        style = {"error": "bad", "warning": "warn"}.get(item.level, "base")
        lines.append(
            (
                (f"{clock(item.at)} ", "dim"),
                (f"{printable(item.tag, 24)} ", "key"),
                (printable(item.sentence, 400), style),
            )
        )
        if item.next_step:
            lines.append(_step(printable(item.next_step, 400)))
        if item.detail:
            lines.append(_note(printable(item.detail, 400)))
        lines.append(BLANK)
    return lines or [_note("No problem was told of.")]


# ---------------------------------------------------------------- shards


def _shard(view: View, key: str) -> list[Line]:
    state = view.state
    shard = state.shards.get(int(key))
    if shard is None:
        return [_note("This shard is not part of the model.")]
    status = state.status_of(shard.shard_id)
    start, end = shard_layers(shard)
    local = shard.local
    model = local.model_name or next((h.model_name for h in shard.holders.values()), "")
    lines: list[Line] = [
        (
            (STATUS_WORDS[status], STATUS_STYLES[status]),
            (f"  {why(view, shard.shard_id)}", "strong"),
        ),
        _field("layers", layers(start, end)),
        _field("size", size(shard_size(shard))),
        _field("model", model),
        _field("changed", view.ages.ago(shard.changed_at)),
        BLANK,
        _head("On this node"),
    ]
    lines += _here(shard)
    lines += [BLANK, _head(f"Holders {len(shard.holders)}")]
    lines += _holders(view, shard)
    lines += [BLANK, _head("Last DHT queries about it")]
    recent = [query for query in state.queries if query.shard_id == shard.shard_id][:RECENT]
    lines += [_query_line(query) for query in recent] or [_note("None yet.")]
    lines += [BLANK, _head("Next step")]
    lines += _steps(view, shard)
    return lines


def _here(shard: Shard) -> list[Line]:
    local = shard.local
    word = {
        "none": "no file",
        "file": "file on disk, not loaded",
        "loading": f"loading {local.progress * 100:.0f} %",
        "loaded": f"in memory, read in {local.load_seconds:.1f} s",
        "failed": "load failed",
    }[local.phase]
    lines = [_field("state", word, "bad" if local.phase == "failed" else "base")]
    if local.path:
        lines.append(_field("file", printable(local.path, 300)))
    if local.sentence:
        lines.append(_field("problem", printable(local.sentence, 400), "warn"))
    return lines


def _holders(view: View, shard: Shard) -> list[Line]:
    lines: list[Line] = []
    state = view.state
    ordered = sorted(
        shard.holders.values(), key=lambda item: (not state.holder_answers(item), item.peer_id)
    )
    for holder in ordered[:16]:
        peer = state.peers.get(holder.peer_id)
        word, style = peer_state(view, peer) if peer is not None else ("gone", "bad")
        phase = f"loading {holder.progress * 100:.0f} %" if holder.phase == "loading" else (
            "loaded" if holder.loaded else "file only" if holder.phase == "file" else "not loaded"
        )
        rtt = f"  {milliseconds(peer.rtt_ms)}" if peer is not None and peer.answering else ""
        lines.append(
            (
                (f"{peer_name(holder.peer_id)}  ", "strong"),
                (word, style),
                (f"{rtt}  {phase}", "base"),
                (f"  via {holder.source}", "dim"),
            )
        )
    if len(ordered) > 16:
        lines.append(_note(f"and {len(ordered) - 16} more"))
    return lines or [_note("No peer announces it.")]


def _query_line(query: Query) -> Line:
    style = {"failed": "bad", "running": "warn", "missing": "dim"}.get(query.outcome, "good")
    return (
        (f"{clock(query.started_at)} ", "dim"),
        (f"{query.kind} ", "base"),
        (query.outcome, style),
        (f"  asked {len(query.asked)}, {milliseconds(query.duration_ms)}", "dim"),
        (f"  {printable(query.detail, 120)}" if query.detail else "", "dim"),
    )


def _steps(view: View, shard: Shard) -> list[Line]:
    state, local = view.state, shard.local
    status = state.status_of(shard.shard_id)
    with_file = [item for item in shard.holders.values() if item.phase == "file"]
    if status == "LOCAL":
        return [_step("Nothing to do. U unloads it from this node.")]
    if local.phase == "loading":
        return [_step("Wait until it is loaded.")]
    if local.next_step:
        return [_step(printable(local.next_step, 400))]
    if local.phase == "file":
        return [_step("Press L to load it on this node: its file is on the disk.")]
    if status == "ONLINE":
        near = answering(state, shard)
        return [_step(f"Nothing to do. i asks {peer_name(near[0][1].peer_id)} how it is.")]
    if with_file:
        return [_step(f"Press L and choose {peer_name(with_file[0].peer_id)}: it has the file.")]
    if shard.holders:
        return [_step("Its holders do not answer. Press 2 to see them; they are dialled again.")]
    where = printable(state.node.shards_dir, 200) if state.node is not None else "the folder"
    return [
        _step(f"Put shard-{shard.shard_id}.gguf into {where} and press L, or start a node with"),
        ((f"  swarmtui --shard {shard.shard_id}", "strong"),),
    ]


# ---------------------------------------------------------------- peers, queries, torrents


def _peer(view: View, key: str) -> list[Line]:
    peer = view.state.peers.get(key)
    if peer is None:
        return [_note("This peer is gone.")]
    word, style = peer_state(view, peer)
    lines: list[Line] = [
        ((word, style), (f"  {printable(peer.note, 200)}", "base")),
        _field("peer id", printable(peer.peer_id, 128), "strong"),
        _field("agent", printable(peer.agent, 128)),
        _field("role", "bootstrap node" if peer.bootstrap else "node"),
        _field("over", carried_over(peer) if peer.transports else "not connected"),
        _field("direction", peer.direction),
        _field("rtt", milliseconds(peer.rtt_ms)),
        _field("heard", view.ages.ago(peer.heard_at)),
        _field("connected", view.ages.ago(peer.connected_at if peer.connected else 0)),
        _field("found by", peer.source),
        _field("shards", names(held_by(view.state, key)) or "none loaded"),
        BLANK,
        _head("Addresses"),
    ]
    lines += [((printable(item, 200), "base"),) for item in peer.addresses[:8]] or [
        _note("None known.")
    ]
    lines += [BLANK, _head("Commands and messages")]
    rows = [row for row in view.state.commands if row.peer_id == key][:RECENT]
    for row in rows:
        arrow = "→" if row.direction == "out" else "←"
        lines.append(
            (
                (f"{clock(row.at)} {arrow} ", "dim"),
                (f"{printable(row.command, 32)} {row.status} ", "base"),
                (f"{milliseconds(row.duration_ms)} " if row.duration_ms is not None else "", "dim"),
                (printable(row.summary, 200), "base"),
            )
        )
    if not rows:
        lines.append(_note("None yet."))
    lines += [BLANK, _head("Next step")]
    if peer.answering:
        lines.append(_step("i asks it for its status, m sends it a message."))
    elif peer.quarantined_until > view.now:
        lines.append(_step("It is left out of DHT work until then, and pinged meanwhile."))
    else:
        lines.append(_step("It is dialled again by itself. See whether its machine is up."))
    return lines


def _query(view: View, key: str) -> list[Line]:
    query = next((item for item in view.state.queries if str(item.query_id) == key), None)
    if query is None:
        return [_note("This query is no longer remembered.")]
    lines: list[Line] = [
        _query_line(query),
        _field("key", printable(query.key, 300), "strong"),
        _field("short", short_key(query.key, query.shard_id)),
        _field("found", str(query.found)),
        BLANK,
        _head(f"Peers asked {len(query.asked)}"),
    ]
    for answer in query.asked:
        bad = answer.result in ("timeout", "error", "refused")
        lines.append(
            (
                (f"{peer_name(answer.peer_id)}  ", "strong"),
                (answer.result, "bad" if bad else "good"),
                (f"  {milliseconds(answer.duration_ms)}", "dim"),
                (f"  {printable(answer.detail, 160)}" if answer.detail else "", "dim"),
            )
        )
    if not query.asked:
        lines.append(_note("Nobody yet." if query.duration_ms is None else "Nobody was asked."))
    return lines


def _torrent(view: View, key: str) -> list[Line]:
    item = view.state.torrents.get(key)
    if item is None:
        return [_note("This file is no longer known.")]
    lines: list[Line] = [
        ((printable(item.filename, 300), "strong"),),
        _field("info hash", printable(item.info_hash, 128)),
        _field("size", f"{size(item.size)} ({item.size:,} bytes)"),
        _field("shard", str(item.shard_id) if item.shard_id is not None else DASH),
        _field("here", "yes, on this node's disk" if item.local else "no"),
        BLANK,
        _head(f"Peers that have it {len(item.peers)}"),
    ]
    lines += [((peer_name(peer), "base"),) for peer in item.peers[:32]] or [_note("None known.")]
    return lines
