"""Why: everything known about the selected item, and the next step."""

from __future__ import annotations

from collections.abc import Sequence

from node.errors import PlainError
from node.state import Query, Shard, Torrent
from swarmtui import transfers
from swarmtui.amounts import left, percent, rate
from swarmtui.panes.lines import BLANK, field, head, note, step
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
from swarmtui.panes.why_torrent import explain_torrent, steps as torrent_steps
from swarmtui.widgets.ring_log import clock
from swarmtui.widgets.text import (
    Line,
    layers,
    milliseconds,
    names,
    peer_name,
    printable,
    size,
)

RECENT = 6


def explain(view: View, kind: str, key: str) -> list[Line]:
    """The lines about one item; kinds are shard, peer, query and torrent."""
    reader = {"shard": _shard, "peer": _peer, "query": _query, "torrent": explain_torrent}.get(kind)
    return reader(view, key) if reader is not None and key else [note("Nothing is selected.")]


def name_of(view: View, kind: str, key: str) -> str:
    """What the item is called in a title."""
    if kind == "peer":
        return f"peer {peer_name(key)}"
    if kind == "torrent":
        item = view.state.torrents.get(key)
        return printable(item.filename if item is not None else key[:8], 64)
    return f"{kind} {printable(key, 32)}"


def problem_lines(view: View, more: Sequence[PlainError] = ()) -> list[Line]:
    """The problems the node told of, newest first, and those of the console itself."""
    lines: list[Line] = []
    for error in more:
        lines += [((error.sentence, "warn"),), step(error.next_step), BLANK]
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
            lines.append(step(printable(item.next_step, 400)))
        if item.detail:
            lines.append(note(printable(item.detail, 400)))
        lines.append(BLANK)
    return lines or [note("No problem was told of.")]


# ---------------------------------------------------------------- shards


def _shard(view: View, key: str) -> list[Line]:
    state = view.state
    shard = state.shards.get(int(key))
    if shard is None:
        return [note("This shard is not part of the model.")]
    status = state.status_of(shard.shard_id)
    start, end = shard_layers(shard)
    local = shard.local
    model = local.model_name or next((h.model_name for h in shard.holders.values()), "")
    lines: list[Line] = [
        (
            (STATUS_WORDS[status], STATUS_STYLES[status]),
            (f"  {why(view, shard.shard_id)}", "strong"),
        ),
        field("layers", layers(start, end)),
        field("size", size(shard_size(shard))),
        field("model", model),
        field("changed", view.ages.ago(shard.changed_at)),
        BLANK,
        head("On this node"),
    ]
    lines += _here(view, shard)
    lines += [BLANK, head(f"Holders {len(shard.holders)}")]
    lines += _holders(view, shard)
    lines += [BLANK, head("Last DHT queries about it")]
    recent = [query for query in state.queries if query.shard_id == shard.shard_id][:RECENT]
    lines += [_query_line(query) for query in recent] or [note("None yet.")]
    lines += [BLANK, head("Next step")]
    lines += _steps(view, shard)
    return lines


def _here(view: View, shard: Shard) -> list[Line]:
    local = shard.local
    word = {
        "none": "no file",
        "file": "file on disk, not loaded",
        "downloading": f"downloading {percent(local.progress)}",
        "loading": f"loading {percent(local.progress)}",
        "loaded": f"in memory, read in {local.load_seconds:.1f} s",
        "failed": "failed",
    }[local.phase]
    lines = [field("state", word, "bad" if local.phase == "failed" else "base")]
    item = transfers.of_shard(view.state, shard.shard_id)
    if item is not None and (item.moving or local.phase == "none"):
        lines.append(field("its file", _file_words(item)))
    if local.path:
        lines.append(field("file", printable(local.path, 300)))
    if local.sentence:
        lines.append(field("problem", printable(local.sentence, 400), "warn"))
    elif item is not None and item.moving and transfers.trouble(item):
        lines.append(field("problem", transfers.trouble(item), "warn"))
    return lines


def _file_words(item: Torrent) -> str:
    """`stalled 40 % of 1.0 GiB, 94.2 MiB/s, 12s left`, or who has it."""
    word, _ = transfers.state_word(item)
    if not item.moving:
        return f"{word} {'has' if len(item.peers) == 1 else 'have'} it" if item.peers else word
    words = f"{word} {percent(item.done / item.size)} of {size(item.size)}" if item.size else word
    if transfers.down_rate(item) >= 1:
        words += f", {rate(item.rate_down)}, {left(item.eta_s)} left"
    return words


def _holders(view: View, shard: Shard) -> list[Line]:
    lines: list[Line] = []
    state = view.state
    ordered = sorted(
        shard.holders.values(), key=lambda item: (not state.holder_answers(item), item.peer_id)
    )
    for holder in ordered[:16]:
        peer = state.peers.get(holder.peer_id)
        word, style = peer_state(view, peer) if peer is not None else ("gone", "bad")
        phase = "loaded" if holder.loaded else {
            "loading": f"loading {percent(holder.progress)}",
            "downloading": f"downloading {percent(holder.progress)}",
            "file": "file only",
        }.get(holder.phase, "not loaded")
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
        lines.append(note(f"and {len(ordered) - 16} more"))
    return lines or [note("No peer announces it.")]


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
    item = transfers.of_shard(state, shard.shard_id)
    if status == "LOCAL":
        return [step("Nothing to do. U unloads it from this node.")]
    if local.phase == "loading":
        return [step("Wait until it is loaded.")]
    if local.phase == "downloading" and item is not None and item.moving:
        return torrent_steps(view, item)
    if item is not None and item.offers:
        return torrent_steps(view, item)
    if local.phase == "none" and item is not None and item.peers and status == "OFFLINE":
        return [step("Press L: its file is downloaded from who has it, verified, and loaded here.")]
    if local.next_step:
        return [step(printable(local.next_step, 400))]
    if local.phase == "file":
        return [step("Press L to load it on this node: its file is on the disk.")]
    if status == "ONLINE":
        near = answering(state, shard)
        return [step(f"Nothing to do. i asks {peer_name(near[0][1].peer_id)} how it is.")]
    with_file = [item for item in shard.holders.values() if item.phase == "file"]
    if with_file:
        name = peer_name(with_file[0].peer_id)
        return [step(f"Press L: {name} has the file and can load it, or this node downloads it.")]
    if shard.holders:
        return [step("Its holders do not answer. Press 2 to see them; they are dialled again.")]
    where = printable(state.node.shards_dir, 200) if state.node is not None else "the folder"
    return [
        step(f"Nobody is known to have its file. Put shard-{shard.shard_id}.gguf into {where},"),
        (("  or start a node that has it; then press L.", "base"),),
    ]


# ---------------------------------------------------------------- peers, queries


def _peer(view: View, key: str) -> list[Line]:
    peer = view.state.peers.get(key)
    if peer is None:
        return [note("This peer is gone.")]
    word, style = peer_state(view, peer)
    lines: list[Line] = [
        ((word, style), (f"  {printable(peer.note, 200)}", "base")),
        field("peer id", printable(peer.peer_id, 128), "strong"),
        field("agent", printable(peer.agent, 128)),
        field("role", "bootstrap node" if peer.bootstrap else "node"),
        field("over", carried_over(peer) if peer.transports else "not connected"),
        field("direction", peer.direction),
        field("rtt", milliseconds(peer.rtt_ms)),
        field("heard", view.ages.ago(peer.heard_at)),
        field("connected", view.ages.ago(peer.connected_at if peer.connected else 0)),
        field("found by", peer.source),
        field("shards", names(held_by(view.state, key)) or "none loaded"),
        BLANK,
        head("Addresses"),
    ]
    lines += [((printable(item, 200), "base"),) for item in peer.addresses[:8]] or [
        note("None known.")
    ]
    lines += [BLANK, head("Commands and messages")]
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
        lines.append(note("None yet."))
    lines += [BLANK, head("Next step")]
    if peer.answering:
        lines.append(step("i asks it for its status, m sends it a message."))
    elif peer.quarantined_until > view.now:
        lines.append(step("It is left out of DHT work until then, and pinged meanwhile."))
    else:
        lines.append(step("It is dialled again by itself. See whether its machine is up."))
    return lines


def _query(view: View, key: str) -> list[Line]:
    query = next((item for item in view.state.queries if str(item.query_id) == key), None)
    if query is None:
        return [note("This query is no longer remembered.")]
    lines: list[Line] = [
        _query_line(query),
        field("key", printable(query.key, 300), "strong"),
        field("short", short_key(query.key, query.shard_id)),
        field("found", str(query.found)),
        BLANK,
        head(f"Peers asked {len(query.asked)}"),
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
        lines.append(note("Nobody yet." if query.duration_ms is None else "Nobody was asked."))
    return lines
